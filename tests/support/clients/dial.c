/*
 * Makes TCP connect attempts by one of the kernel's entries, and reports each as a JSON line, as client.py does:
 *
 *   dial ENTRY ADDRESS PORT [OPTION=VALUE]…
 *
 * ENTRY is connect, mptcp, sendto (MSG_FASTOPEN), deferred (TCP_FASTOPEN_CONNECT, then a write), plain, async or sqpoll
 * (io_uring), connect32 or socketcall32 (the system calls of 32-bit programs). The options are
 *
 *   timeout=MS                        a non-blocking socket, which is given up after that time
 *   limit=MS                          a request of io_uring that is cancelled after that time
 *   give-up=close|linger|shutdown|unspec   how it is given up; with
 *   at-once=1                         without waiting for it
 *   bind=PORT  ports=PORT             the port of the socket; the only one that the kernel may choose
 *   syn-retries=N  user-timeout=MS  send-timeout=MS
 *   go-on=1                           wait for an attempt that goes on when its call has ended
 *   signal=interrupt|restart          have a signal come in the middle of the call
 *   closer=1                          have another thread close the descriptor in the middle of the call
 *   address=wrong|bad  length=N       an address of the other family, or none in memory; how long it is said to be
 *   self=1                            connect the socket to its own port
 *   before=ADDRESS:PORT               a blocking attempt on the same socket before, or with
 *   undone=1                          one that connect(AF_UNSPEC) ends
 *   spin=1  rounds=N                  ask for the errno without a pause; N attempts
 *   euid=UID  repair=1  forbidden=1   as another effective user; with TCP_REPAIR; with a seccomp filter
 *
 * It ends with 2 where the kernel has not what that takes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <time.h>

#include "ring.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif
#define LONGEST_MS 20000
#define LATER_US 100000

enum { SYN_SENT = 2, SYN_RECV = 3 };

static const char *entry, *host;
static char **options;
static int port, family;
static struct sockaddr *address; /* where a 32-bit program has it, too */
static socklen_t length;

static const char *option(const char *name)
{
	size_t size = strlen(name);

	for (char **one = options; *one; one++)
		if (!strncmp(*one, name, size) && (*one)[size] == '=')
			return *one + size + 1;
	return "";
}

static int is(const char *name, const char *value)
{
	return !strcmp(option(name), value);
}

static int number(const char *name)
{
	return atoi(option(name));
}

static int is_entry(const char *name)
{
	return !strcmp(entry, name);
}

static int is_ring(void)
{
	return is_entry("plain") || is_entry("async") || is_entry("sqpoll");
}

static void needs(int failed, const char *what)
{
	if (!failed)
		return;
	printf("absent: %s: %s\n", what, strerror(errno));
	exit(2);
}

static socklen_t fill(struct sockaddr *to, int kind, const char *name, int its_port)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(its_port)};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(its_port)};

	if (kind == AF_INET6) {
		inet_pton(kind, name, &six.sin6_addr);
		memcpy(to, &six, sizeof(six));
		return sizeof(six);
	}
	inet_pton(kind, name, &four.sin_addr);
	memcpy(to, &four, sizeof(four));
	return sizeof(four);
}

static void fill_address(void)
{
	address = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	length = fill(address, family, host, port);
	if (is("address", "wrong")) {
		memset(address, 0, length);
		fill(address, family == AF_INET6 ? AF_INET : AF_INET6, "", port);
		length = sizeof(struct sockaddr_in6);
	} else if (is("address", "bad")) {
		address = (struct sockaddr *)1;
	}
	if (number("length"))
		length = number("length");
}

static void bind_to(int client, const char *name, int its_port)
{
	struct sockaddr_storage own;
	socklen_t size = fill((struct sockaddr *)&own, family, name, its_port);

	needs(bind(client, (struct sockaddr *)&own, size), "bind");
}

static int new_socket(void)
{
	int type = SOCK_STREAM | (number("timeout") ? SOCK_NONBLOCK : 0), on = 1, value;
	int client = socket(family, type, is_entry("mptcp") ? IPPROTO_MPTCP : 0);
	struct timeval patience = {.tv_sec = number("send-timeout") / 1000,
				   .tv_usec = number("send-timeout") % 1000 * 1000};

	needs(client < 0, "socket");
	if (number("send-timeout"))
		setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if ((value = number("user-timeout")))
		needs(setsockopt(client, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, sizeof(value)), "TCP_USER_TIMEOUT");
	if ((value = number("syn-retries")))
		needs(setsockopt(client, IPPROTO_TCP, TCP_SYNCNT, &value, sizeof(value)), "TCP_SYNCNT");
	if (number("repair"))
		needs(setsockopt(client, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), "TCP_REPAIR");
	if (number("bind")) {
		setsockopt(client, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
		bind_to(client, family == AF_INET6 ? "::" : "0.0.0.0", number("bind"));
	}
	if (number("self")) {
		bind_to(client, host, 0);
		length = sizeof(struct sockaddr_in6);
		getsockname(client, address, &length);
		port = ntohs(((struct sockaddr_in *)address)->sin_port);
	}
	return client;
}

/* What is not to be so for an attempt before. */
static void prepare(int client)
{
	unsigned range = number("ports") << 16 | number("ports");
	int on = 1;

	if (is_entry("deferred"))
		needs(setsockopt(client, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof(on)), "TCP_FASTOPEN_CONNECT");
	if (range)
		needs(setsockopt(client, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range)), "IP_LOCAL_PORT_RANGE");
}

#ifdef __x86_64__
static int call32(int call, long first, long second, long third)
{
	int result;

	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(call), "b"((int)first), "c"((int)second), "d"((int)third)
		     : "memory", "r8", "r9", "r10", "r11");
	return result;
}
#else
static int call32(int call, long first, long second, long third)
{
	errno = ENOSYS;
	needs(call || first || second || third, "32-bit calls");
	return 0;
}
#endif

static int connect32(int client)
{
	unsigned *arguments = (unsigned *)address + 64;

	if (!is_entry("socketcall32"))
		return call32(362, client, (long)address, length);
	arguments[0] = client;
	arguments[1] = (long)address;
	arguments[2] = length;
	return call32(102, 3, (long)arguments, 0);
}

static struct tcp_info info_of(int client)
{
	struct tcp_info info = {};
	socklen_t size = sizeof(info);

	getsockopt(client, IPPROTO_TCP, TCP_INFO, &info, &size);
	return info;
}

static int is_pending(int client)
{
	struct tcp_info info = info_of(client);

	return info.tcpi_state == SYN_SENT || info.tcpi_state == SYN_RECV;
}

/* In the same state is an attempt whose SYN is deferred; then nothing is unacknowledged. */
static int syn_sent(int client)
{
	struct tcp_info info = info_of(client);

	return info.tcpi_state == SYN_SENT && info.tcpi_unacked;
}

/* Make the attempt; return an errno, EINPROGRESS as long as it goes on, or 0. */
static int begin(int client)
{
	int result;

	if (is_ring())
		return -ring_connect(client, address, length, is_entry("async"), number("limit"));
	if (is_entry("connect32") || is_entry("socketcall32"))
		return -connect32(client);
	if (is_entry("sendto"))
		result = sendto(client, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, address, length);
	else if (!(result = connect(client, address, length)) && is_entry("deferred"))
		result = send(client, "x", 1, MSG_NOSIGNAL);
	if (result < 0)
		return errno;
	return result > 0 && is_pending(client) ? EINPROGRESS : 0; /* the SYN took along what was written */
}

static int await_end(int client, int ms)
{
	struct pollfd ended = {.fd = client, .events = POLLOUT};
	int result;

	do
		result = poll(&ended, 1, ms);
	while (result < 0 && errno == EINTR);
	return result;
}

static int socket_error(int client)
{
	socklen_t size = sizeof(int);
	int error = 0;

	do
		getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &size);
	while (!error && number("spin"));
	return error;
}

static void disconnect(int client)
{
	struct sockaddr nothing = {.sa_family = AF_UNSPEC};

	connect(client, &nothing, sizeof(nothing));
}

static void give_up(int client)
{
	struct linger at_once = {.l_onoff = 1};

	if (is("give-up", "linger"))
		setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	else if (is("give-up", "shutdown"))
		shutdown(client, SHUT_RDWR);
	else if (is("give-up", "unspec"))
		disconnect(client);
}

static void come(int signal_number)
{
	(void)signal_number;
}

static void order_signal(void)
{
	struct sigaction action = {.sa_handler = come};
	struct itimerval later = {.it_value.tv_usec = LATER_US};

	action.sa_flags = is("signal", "restart") ? SA_RESTART : 0;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &later, NULL);
}

/* Close it when its SYN is out. */
static void *close_later(void *client)
{
	int fd = (long)client;

	for (int waited_us = 0; !syn_sent(fd) && waited_us < 10 * LATER_US; waited_us += 1000)
		usleep(1000);
	usleep(LATER_US);
	close(fd);
	return NULL;
}

static void forbid(void)
{
	struct sock_filter code[] = {
		{BPF_LD | BPF_W | BPF_ABS, 0, 0, 0}, /* the number of the call */
		{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_connect},
		{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
		{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
	};
	struct sock_fprog program = {sizeof(code) / sizeof(*code), code};

	needs(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "seccomp");
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void report(int client, int blocking, int error, int abandoned, double began)
{
	struct sockaddr_in6 own = {};
	socklen_t size = sizeof(own);
	double seconds = now() - began;

	getsockname(client, (struct sockaddr *)&own, &size);
	printf("{\"pid\": %d, \"tid\": %d, \"runtime\": \"c\", \"host\": \"%s\", \"port\": %d, \"blocking\": %s,"
	       " \"result\": \"%s\", \"seconds\": %.6f",
	       getpid(), (int)syscall(SYS_gettid), host, port, blocking ? "true" : "false",
	       abandoned ? "abandoned" : error ? "error" : "ok", seconds);
	if (error)
		printf(", \"errno\": %d, \"errno_name\": \"%s\"", error, strerrorname_np(error));
	else
		printf(", \"errno\": null, \"errno_name\": null");
	printf(own.sin6_port ? ", \"local_port\": %d}\n" : ", \"local_port\": null}\n", ntohs(own.sin6_port));
	fflush(stdout);
}

/* Use the socket for another attempt first. */
static void attempt_before(int client)
{
	char *name = strdup(option("before")), *colon = strrchr(name, ':');
	struct sockaddr_storage to;
	socklen_t size;
	double began = now();
	int on = 1, off = 0, failed;

	*colon = 0;
	size = fill((struct sockaddr *)&to, family, name, atoi(colon + 1));
	ioctl(client, FIONBIO, number("undone") ? &on : &off);
	failed = connect(client, (struct sockaddr *)&to, size) ? errno : 0;
	report(client, !number("undone"), number("undone") ? 0 : failed, number("undone"), began);
	if (number("undone"))
		disconnect(client);
	ioctl(client, FIONBIO, number("timeout") ? &on : &off);
}

static void attempt(void)
{
	int client = new_socket(), error, abandoned = 0;
	pthread_t closer;
	double began;

	if (*option("before"))
		attempt_before(client);
	prepare(client);
	if (*option("signal"))
		order_signal();
	if (number("closer"))
		pthread_create(&closer, NULL, close_later, (void *)(long)client);
	began = now();
	error = begin(client);
	if (error == ECANCELED || (number("limit") && error == EINTR)) {
		error = 0;
		abandoned = 1;
	} else if (error == EINPROGRESS || error == EINTR) {
		if (!number("spin"))
			abandoned = number("at-once") || (number("send-timeout") && !number("go-on")) ||
				    !await_end(client, number("timeout") ? number("timeout") : LONGEST_MS);
		error = abandoned ? 0 : socket_error(client);
	}
	report(client, !number("timeout"), error, abandoned, began);
	if (abandoned)
		give_up(client);
	close(client);
}

int main(int argc, char **argv)
{
	int rounds;

	if (argc < 4)
		return 1;
	entry = argv[1];
	host = argv[2];
	port = atoi(argv[3]);
	options = argv + 4;
	family = strchr(host, ':') ? AF_INET6 : AF_INET;
	fill_address();
	if (number("euid"))
		needs(seteuid(number("euid")), "seteuid");
	if (is_ring())
		ring_set_up(is_entry("sqpoll"));
	if (number("forbidden"))
		forbid();
	for (rounds = number("rounds") ? number("rounds") : 1; rounds; rounds--)
		attempt();
	return 0;
}
