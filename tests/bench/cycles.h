// SPDX-License-Identifier: Apache-2.0
/*
 * What the load generators share: one thread, pinned to a core, that makes the same system calls again and
 * again, no more than RATE cycles in a second, and prints the nanoseconds of CPU that a cycle took, except for
 * the first ones.
 *
 * The thread has both ends of a connection, and on loopback a packet is received inside the call that sends it.
 * So all that the probes cost is in that time, and the time that others have the core is not. Only a kernel
 * that accounts for interrupts separately (CONFIG_IRQ_TIME_ACCOUNTING) leaves the receiving of packets out of
 * it.
 */
#pragma once
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP 100 /* cycles that are not timed */
#define BURST   20  /* cycles between two looks at the clock */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* A socket on a port of 127.0.0.1 that is ours, so that nobody else can listen there; its address is in
 * *address. */
static int take_port(int type, struct sockaddr_in *address)
{
	socklen_t length = sizeof(*address);
	int fd = socket(AF_INET, type, 0);

	*address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (fd < 0 || bind(fd, (struct sockaddr *)address, length))
		die("bind");
	if (getsockname(fd, (struct sockaddr *)address, &length))
		die("getsockname");
	return fd;
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

/* What a generator can make again and again. */
struct mode {
	const char *name;
	void (*prepare)(void);
	void (*cycle)(void);
};

/* Make so many cycles; with a rate, no more than that many in a second. */
static void make_cycles(void (*cycle)(void), long cycles, long rate)
{
	long long began = now(CLOCK_MONOTONIC), busy = 0;
	long done;

	for (done = 0; done < cycles; done++) {
		if (done == WARM_UP)
			busy = now(CLOCK_THREAD_CPUTIME_ID);
		if (rate && done % BURST == 0)
			sleep_until(began + done * 1000000000LL / rate);
		cycle();
	}
	busy = now(CLOCK_THREAD_CPUTIME_ID) - busy;
	printf("%.1f\n", (double)busy / (cycles - WARM_UP));
}

/* The whole program: MODE CYCLES CORE [RATE], with the modes up to one without a name. */
static int run(const struct mode *mode, int count, char **arguments)
{
	long cycles = count > 3 ? atol(arguments[2]) : 0;

	while (cycles > WARM_UP && mode->name && strcmp(mode->name, arguments[1]))
		mode++;
	if (cycles <= WARM_UP || !mode->name) {
		fprintf(stderr, "usage: %s MODE CYCLES CORE [RATE], more than %d cycles\n", *arguments,
			WARM_UP);
		return 2;
	}
	mode->prepare();
	pin(atoi(arguments[3]));
	make_cycles(mode->cycle, cycles, count > 4 ? atol(arguments[4]) : 0);
	return 0;
}
