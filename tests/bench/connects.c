// SPDX-License-Identifier: Apache-2.0
/*
 * The load of those who connect:
 *
 *   connects accepted|refused|scattered CYCLES CORE [RATE]
 *
 * accepted   socket, connect, accept, and both ends closed; with RST, which leaves no TIME_WAIT behind
 * refused    socket, connect to a port of 127.0.0.1 that nobody listens on, close
 * scattered  the same with 100,000 addresses of loopback in turn
 *
 * With RATE no more than so many cycles are made in a second.
 */
#define _GNU_SOURCE
#include "cycles.h"

#define PEERS 100000

static struct sockaddr_in target;
static int listener;

static void listen_with_reset(void)
{
	struct linger reset = {.l_onoff = 1};

	listener = take_port(SOCK_STREAM, &target);
	/* accepted sockets inherit it */
	if (setsockopt(listener, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) || listen(listener, 16))
		die("listen");
}

static void accepted(void)
{
	int client = socket(AF_INET, SOCK_STREAM, 0), server;

	if (client < 0 || connect(client, (struct sockaddr *)&target, sizeof(target)))
		die("connect");
	server = accept(listener, NULL, NULL);
	if (server < 0)
		die("accept");
	close(server);
	close(client);
}

static void refused(void)
{
	int client = socket(AF_INET, SOCK_STREAM, 0);

	if (client < 0)
		die("socket");
	if (!connect(client, (struct sockaddr *)&target, sizeof(target)) || errno != ECONNREFUSED)
		die("connect was not refused");
	close(client);
}

static void scattered(void)
{
	static unsigned int turn;

	target.sin_addr.s_addr = htonl(INADDR_LOOPBACK + turn++ % PEERS);
	refused();
}

static void take_target(void)
{
	take_port(SOCK_STREAM, &target);
}

int main(int count, char **arguments)
{
	static const struct mode modes[] = {
		{"accepted", listen_with_reset, accepted},
		{"refused", take_target, refused},
		{"scattered", take_target, scattered},
		{0},
	};

	return run(modes, count, arguments);
}
