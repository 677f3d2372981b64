/* Connects to 127.0.0.1:PORT once, and ends: "once PORT [thread|fork|rename|exec PROGRAM|with-pid PID PROGRAM]". */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int port;

static void *attempt(void *unused)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	int client = socket(AF_INET, SOCK_STREAM, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	connect(client, (struct sockaddr *)&to, sizeof(to));
	close(client);
	return unused;
}

/* Run a program as a child with a pid of our choice: the kernel's next choice for others stays what it is. */
static int run_with_pid(pid_t pid, char **argv)
{
	struct clone_args wanted = {.exit_signal = SIGCHLD, .set_tid = (unsigned long)&pid, .set_tid_size = 1};
	int status;
	long child;

	do
		child = syscall(SYS_clone3, &wanted, sizeof(wanted));
	while (child < 0 && errno == EEXIST); /* somebody has it now */
	if (child == 0) {
		execv(argv[0], argv);
		_exit(1);
	}
	return child < 0 || waitpid(child, &status, 0) != child || status;
}

int main(int argc, char **argv)
{
	const char *how = argc > 2 ? argv[2] : "";
	pthread_t thread;

	port = atoi(argv[1]);
	if (!strcmp(how, "thread")) {
		pthread_create(&thread, NULL, attempt, NULL);
		pthread_join(thread, NULL);
	} else if (!strcmp(how, "fork")) {
		if (!fork())
			attempt(NULL);
		else
			wait(NULL);
	} else if (!strcmp(how, "rename")) {
		prctl(PR_SET_NAME, "\033[31m]evil");
		attempt(NULL);
	} else if (!strcmp(how, "with-pid")) {
		return run_with_pid(atoi(argv[3]), (char *[]){argv[4], argv[1], NULL});
	} else if (!strcmp(how, "exec")) {
		attempt(NULL);
		execl(argv[3], argv[3], argv[1], NULL);
	} else {
		attempt(NULL);
	}
	return 0;
}
