// SPDX-License-Identifier: Apache-2.0
/*
 * A load generator: one thread that makes the same system calls again and again.
 *
 *   connects accepted|refused|scattered|getppid CYCLES CORE [RATE]
 *
 * accepted   socket, connect, accept, and both ends closed; with RST, which leaves no TIME_WAIT behind
 * refused    socket, connect to a port of 127.0.0.1 that nobody listens on, close
 * scattered  the same with 100,000 addresses of loopback in turn
 * getppid    a call that has nothing to do with connecting
 *
 * Prints the nanoseconds of CPU that a cycle took, but for the first ones: on loopback the whole handshake
 * runs inside connect(), so all that the probes cost is in it, and the time that others have the core is not.
 * With RATE no more than so many cycles are made in a second.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP 100 /* cycles that are not timed */
#define BURST   20  /* cycles between two looks at the clock */
#define PEERS   100000

static struct sockaddr_in target = {.sin_family = AF_INET};
static int listener;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* A port of loopback that is ours: bound, so that nobody else can listen there. */
static int take_port(void)
{
	socklen_t length = sizeof(target);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || bind(fd, (struct sockaddr *)&target, length))
		die("bind");
	if (getsockname(fd, (struct sockaddr *)&target, &length))
		die("getsockname");
	return fd;
}

static void listen_with_reset(void)
{
	struct linger reset = {.l_onoff = 1};

	listener = take_port();
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

static void getppid_call(void)
{
	syscall(SYS_getppid);
}

static long long now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void sleep_until(long long when)
{
	struct timespec time = {.tv_sec = when / 1000000000, .tv_nsec = when % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
		;
}

static void pin(int core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(core, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static void (*prepare(const char *mode))(void)
{
	if (!strcmp(mode, "accepted")) {
		listen_with_reset();
		return accepted;
	}
	if (!strcmp(mode, "refused")) {
		take_port();
		return refused;
	}
	if (!strcmp(mode, "scattered")) {
		take_port();
		return scattered;
	}
	return getppid_call;
}

int main(int count, char **arguments)
{
	long cycles = count > 3 ? atol(arguments[2]) : 0, rate = count > 4 ? atol(arguments[4]) : 0, done;
	long long began, busy = 0;
	void (*cycle)(void);

	if (cycles <= WARM_UP) {
		fprintf(stderr, "usage: connects accepted|refused|scattered|getppid CYCLES CORE [RATE]\n");
		return 2;
	}
	cycle = prepare(arguments[1]);
	pin(atoi(arguments[3]));
	began = now(CLOCK_MONOTONIC);
	for (done = 0; done < cycles; done++) {
		if (done == WARM_UP)
			busy = now(CLOCK_THREAD_CPUTIME_ID);
		if (rate && done % BURST == 0)
			sleep_until(began + done * 1000000000LL / rate);
		cycle();
	}
	busy = now(CLOCK_THREAD_CPUTIME_ID) - busy;
	printf("%.1f\n", (double)busy / (cycles - WARM_UP));
	return 0;
}
