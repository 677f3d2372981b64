/*
 * Connects by io_uring, as often as there are addresses: "ring MODE ADDRESS PORT [ADDRESS PORT]…", all on one socket;
 * MODE is plain, async or sqpoll. Prints what each request returned.
 */
#include <arpa/inet.h>

#include "ring.h"

int main(int argc, char **argv)
{
	int family = strchr(argv[2], ':') ? AF_INET6 : AF_INET, client = socket(family, SOCK_STREAM, 0), place;

	ring_set_up(!strcmp(argv[1], "sqpoll"));
	for (place = 2; place + 1 < argc; place += 2) {
		struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[place + 1]))};
		struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[place + 1]))};
		struct sockaddr *to = family == AF_INET6 ? (struct sockaddr *)&six : (struct sockaddr *)&four;

		inet_pton(family, argv[place], family == AF_INET6 ? (void *)&six.sin6_addr : (void *)&four.sin_addr);
		printf("%d\n", ring_connect(client, to, family == AF_INET6 ? sizeof(six) : sizeof(four),
					    !strcmp(argv[1], "async"), 0));
	}
	close(client);
	return 0;
}
