// SPDX-License-Identifier: Apache-2.0
/*
 * A program that connects as fast as it can, and knows what it was told.
 *
 *   flood refused|accepted|local|mixed|scattered|forks COUNT [RATE]
 *
 * refused    to a port of 127.0.0.1 that nobody listens on
 * accepted   to a listener of its own
 * local      to the broadcast address, which fails before any SYN
 * mixed      these three in turn
 * scattered  refused, by 100,000 addresses of loopback in turn
 * forks      refused, three attempts of each child, COUNT children
 *
 * COUNT 0: until SIGTERM. With RATE so many a second, after a second in which it only lives. At its end it
 * prints how many attempts were established, refused, and failed locally.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PEERS       100000
#define PER_CHILD   3
#define NANOSECONDS 1000000000LL

static struct sockaddr_in closed_port = {.sin_family = AF_INET}, open_port = {.sin_family = AF_INET};
static struct sockaddr_in broadcast = {.sin_family = AF_INET, .sin_port = 9};
static int listener;
static long established, refused, failed;
static volatile sig_atomic_t stopped;

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* A port of loopback that is ours: bound, so that nobody else can listen there. */
static int take_port(struct sockaddr_in *address)
{
	socklen_t length = sizeof(*address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || bind(fd, (struct sockaddr *)address, length))
		die("bind");
	if (getsockname(fd, (struct sockaddr *)address, &length))
		die("getsockname");
	return fd;
}

static void prepare(void)
{
	struct linger reset = {.l_onoff = 1};

	take_port(&closed_port);
	listener = take_port(&open_port);
	/* accepted sockets inherit it: no TIME_WAIT is left behind */
	if (setsockopt(listener, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) || listen(listener, 16))
		die("listen");
	broadcast.sin_addr.s_addr = htonl(INADDR_BROADCAST);
	signal(SIGTERM, stop);
}

static void attempt(const struct sockaddr_in *to)
{
	int client = socket(AF_INET, SOCK_STREAM, 0), server;

	if (client < 0)
		die("socket");
	if (!connect(client, (const struct sockaddr *)to, sizeof(*to))) {
		server = accept(listener, NULL, NULL);
		if (server < 0)
			die("accept");
		close(server);
		established++;
	} else if (errno == ECONNREFUSED) {
		refused++;
	} else {
		failed++;
	}
	close(client);
}

static void fork_one(void)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (!child) {
		refused = 0;
		for (int n = 0; n < PER_CHILD; n++)
			attempt(&closed_port);
		_exit(refused);
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
	refused += WEXITSTATUS(status);
}

static void step(const char *mode, long turn)
{
	const struct sockaddr_in *kinds[] = {&closed_port, &open_port, &broadcast};

	if (!strcmp(mode, "forks")) {
		fork_one();
	} else if (!strcmp(mode, "scattered")) {
		struct sockaddr_in peer = closed_port;

		peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK + turn % PEERS);
		attempt(&peer);
	} else if (!strcmp(mode, "mixed")) {
		attempt(kinds[turn % 3]);
	} else {
		attempt(kinds[!strcmp(mode, "accepted") ? 1 : !strcmp(mode, "local") ? 2 : 0]);
	}
}

static void sleep_until(long long when)
{
	struct timespec time = {.tv_sec = when / NANOSECONDS, .tv_nsec = when % NANOSECONDS};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

int main(int count, char **arguments)
{
	long attempts = count > 2 ? atol(arguments[2]) : -1, rate = count > 3 ? atol(arguments[3]) : 0;
	struct timespec time;
	long long began;

	if (attempts < 0)
		return 2;
	prepare();
	clock_gettime(CLOCK_MONOTONIC, &time);
	began = time.tv_sec * NANOSECONDS + time.tv_nsec + NANOSECONDS;
	for (long turn = 0; !stopped && (!attempts || turn < attempts); turn++) {
		if (rate)
			sleep_until(began + turn * NANOSECONDS / rate);
		step(arguments[1], turn);
	}
	printf("%ld %ld %ld\n", established, refused, failed);
	return 0;
}
