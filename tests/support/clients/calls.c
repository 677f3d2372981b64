/*
 * Connects by a call other than an ordinary connect(), and prints the errno that it returned, or 0, with a minus:
 *
 *   calls ENTRY ADDRESS PORT
 *
 * ENTRY is sendto (MSG_FASTOPEN), deferred (TCP_FASTOPEN_CONNECT, then a write), mptcp, or one of the system calls of
 * 32-bit programs: connect32 or socketcall32.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef TCP_FASTOPEN_NO_COOKIE
#define TCP_FASTOPEN_NO_COOKIE 34
#endif

static int call32(int number, long first, long second, long third)
{
	int result = -ENOSYS;

#ifdef __x86_64__
	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(number), "b"((int)first), "c"((int)second), "d"((int)third)
		     : "memory", "r8", "r9", "r10", "r11");
#endif
	(void)number, (void)first, (void)second, (void)third;
	return result;
}

static int connect_by(const char *entry, int client, struct sockaddr *to, socklen_t length)
{
	unsigned *arguments = (unsigned *)(to + 8); /* where a 32-bit pointer reaches it, too */
	int result, on = 1;

	if (!strcmp(entry, "connect32"))
		return call32(362, client, (long)to, length);
	if (!strcmp(entry, "socketcall32")) {
		arguments[0] = client;
		arguments[1] = (long)to;
		arguments[2] = length;
		return call32(102, 3, (long)arguments, 0);
	}
	if (!strcmp(entry, "sendto")) {
		result = sendto(client, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, to, length);
	} else if (!strcmp(entry, "deferred")) {
		setsockopt(client, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof(on));
		setsockopt(client, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, &on, sizeof(on));
		result = connect(client, to, length) ? -1 : send(client, "x", 1, MSG_NOSIGNAL);
	} else {
		result = connect(client, to, length);
	}
	return result < 0 ? -errno : 0;
}

int main(int argc, char **argv)
{
	struct sockaddr *to = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)to;
	struct sockaddr_in *four = (struct sockaddr_in *)to;
	int family, client;

	if (argc != 4)
		return 1;
	family = strchr(argv[2], ':') ? AF_INET6 : AF_INET;
	client = socket(family, SOCK_STREAM, strcmp(argv[1], "mptcp") ? 0 : IPPROTO_MPTCP);
	if (client < 0)
		return 2;
	to->sa_family = family;
	four->sin_port = htons(atoi(argv[3])); /* where sin6_port is, too */
	inet_pton(family, argv[2], family == AF_INET6 ? (void *)&six->sin6_addr : (void *)&four->sin_addr);
	printf("%d\n", connect_by(argv[1], client, to, family == AF_INET6 ? sizeof(*six) : sizeof(*four)));
	close(client);
	return 0;
}
