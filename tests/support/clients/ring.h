/* A ring of io_uring for requests to connect, one at a time. The ring is made in all its parts by ring_set_up(). */
#include <errno.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RING_CONNECT = 1, RING_TIME_LIMIT };

static struct io_uring_params ring_params;
static char *ring_queue;
static struct io_uring_sqe *ring_entries;
static int ring;

static void ring_set_up(int sqpoll)
{
	if (sqpoll) {
		ring_params.flags = IORING_SETUP_SQPOLL;
		ring_params.sq_thread_idle = 1000;
	}
	ring = syscall(SYS_io_uring_setup, 4, &ring_params);
	if (ring < 0) {
		printf("absent: io_uring: %s\n", strerror(errno));
		exit(2);
	}
	ring_queue = mmap(NULL, ring_params.cq_off.cqes + ring_params.cq_entries * sizeof(struct io_uring_cqe),
			  PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	ring_entries = mmap(NULL, ring_params.sq_entries * sizeof(*ring_entries), PROT_READ | PROT_WRITE, MAP_SHARED,
			    ring, IORING_OFF_SQES);
}

static unsigned *ring_at(unsigned offset)
{
	return (unsigned *)(ring_queue + offset);
}

/* Fill the place of the request that is so many behind the last one that was submitted. */
static struct io_uring_sqe *ring_entry(unsigned ahead)
{
	unsigned index = (*ring_at(ring_params.sq_off.tail) + ahead) & *ring_at(ring_params.sq_off.ring_mask);

	memset(&ring_entries[index], 0, sizeof(*ring_entries));
	ring_at(ring_params.sq_off.array)[index] = index;
	return &ring_entries[index];
}

static void ring_submit(unsigned count)
{
	unsigned tail = *ring_at(ring_params.sq_off.tail);

	atomic_store((_Atomic unsigned *)ring_at(ring_params.sq_off.tail), tail + count);
	syscall(SYS_io_uring_enter, ring, count, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0);
}

/* Wait for the end of a request, and return its result. */
static int ring_wait(unsigned long long of)
{
	struct io_uring_cqe *ends = (struct io_uring_cqe *)(ring_queue + ring_params.cq_off.cqes), end;

	do {
		unsigned head = *ring_at(ring_params.cq_off.head);

		while (atomic_load((_Atomic unsigned *)ring_at(ring_params.cq_off.tail)) == head)
			if (syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
				usleep(100); /* a signal */
		end = ends[head & *ring_at(ring_params.cq_off.ring_mask)];
		atomic_store((_Atomic unsigned *)ring_at(ring_params.cq_off.head), head + 1);
	} while (end.user_data != of);
	return end.res;
}

/* Connect by a request, which is cancelled after so many milliseconds unless they are 0; return its result. */
static int ring_connect(int client, const void *to, socklen_t length, int async, int limit_ms)
{
	struct __kernel_timespec limit = {.tv_sec = limit_ms / 1000, .tv_nsec = limit_ms % 1000 * 1000000LL};
	struct io_uring_sqe *entry = ring_entry(0);

	entry->opcode = IORING_OP_CONNECT;
	entry->flags = (async ? IOSQE_ASYNC : 0) | (limit_ms ? IOSQE_IO_LINK : 0);
	entry->fd = client;
	entry->addr = (unsigned long)to;
	entry->off = length;
	entry->user_data = RING_CONNECT;
	if (limit_ms) {
		entry = ring_entry(1);
		entry->opcode = IORING_OP_LINK_TIMEOUT;
		entry->addr = (unsigned long)&limit;
		entry->len = 1;
		entry->user_data = RING_TIME_LIMIT;
	}
	ring_submit(limit_ms ? 2 : 1);
	return ring_wait(RING_CONNECT);
}
