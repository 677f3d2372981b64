/*
 * Connects ROUNDS times without blocking and asks for SO_ERROR without a pause until it is told an error: so it takes
 * the errno from the socket while the kernel, on another processor, is still ending the attempt.
 * "taken FAMILY ADDRESS PORT ROUNDS" prints how often it was told an error.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int family = argc > 4 && argv[1][0] == '4' ? AF_INET : AF_INET6;
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[3]))};
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
	struct sockaddr *to = family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
	socklen_t length = family == AF_INET ? sizeof(v4) : sizeof(v6);
	int told = 0;

	inet_pton(family, argv[2], family == AF_INET ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr);
	for (int round = atoi(argv[4]); round; round--) {
		int client = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0), error = 0;
		socklen_t size = sizeof(error);

		if (!connect(client, to, length) || errno != EINPROGRESS)
			return 1;
		while (!error)
			getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &size);
		told++;
		close(client);
	}
	printf("%d\n", told);
	return 0;
}
