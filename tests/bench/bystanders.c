// SPDX-License-Identifier: Apache-2.0
/*
 * The load of those who do not connect, whom the agent should cost nothing:
 *
 *   bystanders tcp|stream|udp|unconnected|files|getppid CYCLES CORE [RATE]
 *
 * tcp          64 bytes there and 64 bytes back over a TCP connection that was established before
 * stream       64 KiB written to such a connection, and read at its other end
 * udp          64 bytes there and 64 bytes back between two connected UDP sockets
 * unconnected  the same between two that are not connected, as name servers and many of their clients have them
 * files        one of FILES files of the working directory, whose names are 0, 1 and so on, opened and closed
 * getppid      a call that does nothing
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/syscall.h>
#include "cycles.h"

#define MESSAGE 64
#define BULK    (64 * 1024)

static int client, server;
static struct sockaddr_in client_address, server_address;
static char buffer[BULK];
static char names[FILES][8];

static void set_option(int fd, int level, int option, const void *value, socklen_t size)
{
	if (setsockopt(fd, level, option, value, size))
		die("setsockopt");
}

/* What is lost is an error, and not a wait for ever. */
static void give_up_in_time(int fd)
{
	struct timeval patience = {.tv_sec = 10};

	set_option(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	set_option(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
}

static void connect_to(int fd, const struct sockaddr_in *address)
{
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)))
		die("connect");
}

/* With room for 64 KiB at both ends, so that the one thread never waits for itself. */
static void establish(void)
{
	int room = 4 * BULK, yes = 1, listener = take_port(SOCK_STREAM, &server_address);

	client = take_port(SOCK_STREAM, &client_address);
	set_option(listener, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)); /* accepted sockets inherit it */
	set_option(client, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	if (listen(listener, 1))
		die("listen");
	connect_to(client, &server_address);
	server = accept(listener, NULL, NULL);
	if (server < 0)
		die("accept");
	close(listener);
	set_option(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	set_option(server, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	give_up_in_time(client);
	give_up_in_time(server);
}

static void open_udp(void)
{
	client = take_port(SOCK_DGRAM, &client_address);
	server = take_port(SOCK_DGRAM, &server_address);
	give_up_in_time(client);
	give_up_in_time(server);
}

static void open_connected(void)
{
	open_udp();
	connect_to(client, &server_address);
	connect_to(server, &client_address);
}

static void pass(int from, int to, size_t size)
{
	if (send(from, buffer, size, 0) != (ssize_t)size)
		die("send");
	if (recv(to, buffer, size, MSG_WAITALL) != (ssize_t)size)
		die("recv");
}

static void ping_pong(void)
{
	pass(client, server, MESSAGE);
	pass(server, client, MESSAGE);
}

static void stream(void)
{
	pass(client, server, BULK);
}

static void pass_to(int from, int to, const struct sockaddr_in *address)
{
	struct sockaddr_in sender;
	socklen_t length = sizeof(sender);

	if (sendto(from, buffer, MESSAGE, 0, (const struct sockaddr *)address, sizeof(*address)) != MESSAGE)
		die("sendto");
	if (recvfrom(to, buffer, MESSAGE, 0, (struct sockaddr *)&sender, &length) != MESSAGE)
		die("recvfrom");
}

static void unconnected(void)
{
	pass_to(client, server, &server_address);
	pass_to(server, client, &client_address);
}

static void name_files(void)
{
	int number;

	for (number = 0; number < FILES; number++)
		snprintf(names[number], sizeof(names[number]), "%d", number);
}

static void open_file(void)
{
	static unsigned int turn;
	int fd = open(names[turn++ % FILES], O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die("open");
	close(fd);
}

static void getppid_call(void)
{
	syscall(SYS_getppid);
}

static void nothing(void)
{
}

int main(int count, char **arguments)
{
	static const struct mode modes[] = {
		{"tcp", establish, ping_pong},
		{"stream", establish, stream},
		{"udp", open_connected, ping_pong},
		{"unconnected", open_udp, unconnected},
		{"files", name_files, open_file},
		{"getppid", nothing, getppid_call},
		{0},
	};

	return run(modes, count, arguments);
}
