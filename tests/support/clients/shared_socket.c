/*
 * Two threads connect one socket at the same time, ROUNDS times:
 *
 *   shared_socket ADDRESS PORT ROUNDS PROTOCOL blocking|nonblocking    whichever is first
 *   shared_socket ADDRESS PORT ROUNDS PROTOCOL held                    the second one begins its call, and gets to the
 *                                                                      socket only after the first one's attempt ended
 *
 * The second is held where the kernel copies the address: that page is missing until userfaultfd supplies it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct sockaddr_in to;
static pthread_barrier_t start;
static int client;

static void *race(void *unused)
{
	pthread_barrier_wait(&start);
	connect(client, (struct sockaddr *)&to, sizeof(to));
	return unused;
}

static void *held(void *page)
{
	connect(client, page, sizeof(to));
	return page;
}

static void await_end(void)
{
	struct pollfd ended = {.fd = client, .events = POLLOUT};

	poll(&ended, 1, 10000);
}

static void race_round(void)
{
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, race, NULL);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	await_end();
}

static void *missing_page(int fd, size_t size)
{
	struct uffdio_api api = {.api = UFFD_API};
	void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register watched = {.range = {(unsigned long)page, size}, .mode = UFFDIO_REGISTER_MODE_MISSING};

	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &watched))
		exit(1);
	return page;
}

static void held_round(void)
{
	size_t size = sysconf(_SC_PAGESIZE);
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	char *page = missing_page(fd, size);
	char *filled = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_copy supply = {.dst = (unsigned long)page, .src = (unsigned long)filled, .len = size};
	struct uffd_msg fault;
	pthread_t thread;

	pthread_create(&thread, NULL, held, page);
	if (read(fd, &fault, sizeof(fault)) != sizeof(fault))
		exit(1);
	connect(client, (struct sockaddr *)&to, sizeof(to));
	await_end();
	memcpy(filled, &to, sizeof(to));
	ioctl(fd, UFFDIO_COPY, &supply);
	pthread_join(thread, NULL);
	munmap(page, size);
	munmap(filled, size);
	close(fd);
}

int main(int argc, char **argv)
{
	int flags;

	if (argc != 6)
		return 2;
	flags = strcmp(argv[5], "blocking") ? SOCK_NONBLOCK : 0;
	to.sin_family = AF_INET;
	to.sin_port = htons(atoi(argv[2]));
	inet_pton(AF_INET, argv[1], &to.sin_addr);
	pthread_barrier_init(&start, NULL, 2);
	for (int round = atoi(argv[3]); round; round--) {
		client = socket(AF_INET, SOCK_STREAM | flags, atoi(argv[4]));
		if (client < 0)
			return 1;
		if (strcmp(argv[5], "held"))
			race_round();
		else
			held_round();
		close(client);
	}
	return 0;
}
