/*
 * Connects by io_uring, as often as there are addresses: "ring MODE ADDRESS PORT [ADDRESS PORT]…", all on one socket;
 * MODE is plain, async or sqpoll. Prints what each request returned.
 */
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct io_uring_params params;
static char *queue;
static struct io_uring_sqe *entries;
static int ring;

static void set_up(const char *mode)
{
	if (!strcmp(mode, "sqpoll")) {
		params.flags = IORING_SETUP_SQPOLL;
		params.sq_thread_idle = 1000;
	}
	ring = syscall(SYS_io_uring_setup, 4, &params);
	if (ring < 0) {
		perror("io_uring_setup");
		exit(2);
	}
	queue = mmap(NULL, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE,
		     MAP_SHARED, ring, IORING_OFF_SQ_RING);
	entries = mmap(NULL, params.sq_entries * sizeof(*entries), PROT_READ | PROT_WRITE, MAP_SHARED, ring,
		       IORING_OFF_SQES);
}

static unsigned *at(unsigned offset)
{
	return (unsigned *)(queue + offset);
}

static int connect_by_ring(int client, struct sockaddr *to, socklen_t length, int async)
{
	unsigned tail = *at(params.sq_off.tail), index = tail & *at(params.sq_off.ring_mask), head;
	struct io_uring_cqe *ends = (struct io_uring_cqe *)(queue + params.cq_off.cqes);
	int result;

	memset(&entries[index], 0, sizeof(*entries));
	entries[index].opcode = IORING_OP_CONNECT;
	entries[index].flags = async ? IOSQE_ASYNC : 0;
	entries[index].fd = client;
	entries[index].addr = (unsigned long)to;
	entries[index].off = length;
	at(params.sq_off.array)[index] = index;
	atomic_store((_Atomic unsigned *)at(params.sq_off.tail), tail + 1);
	syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP, NULL, 0);
	head = *at(params.cq_off.head);
	while (atomic_load((_Atomic unsigned *)at(params.cq_off.tail)) == head)
		usleep(100);
	result = ends[head & *at(params.cq_off.ring_mask)].res;
	atomic_store((_Atomic unsigned *)at(params.cq_off.head), head + 1);
	return result;
}

int main(int argc, char **argv)
{
	int family = strchr(argv[2], ':') ? AF_INET6 : AF_INET, client = socket(family, SOCK_STREAM, 0), place;

	set_up(argv[1]);
	for (place = 2; place + 1 < argc; place += 2) {
		struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[place + 1]))};
		struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[place + 1]))};
		struct sockaddr *to = family == AF_INET6 ? (struct sockaddr *)&six : (struct sockaddr *)&four;

		inet_pton(family, argv[place], family == AF_INET6 ? (void *)&six.sin6_addr : (void *)&four.sin_addr);
		printf("%d\n", connect_by_ring(client, to, family == AF_INET6 ? sizeof(six) : sizeof(four),
					       !strcmp(argv[1], "async")));
	}
	close(client);
	return 0;
}
