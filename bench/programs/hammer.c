// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* hammer NUMBER COUNT: make a system call COUNT times, and on until standard input ends.
 * Prints how many calls there were, and the nanoseconds that all of them took. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define BURST 1000

int main(int argc, char **argv)
{
	long number = atol(argv[1]), least = atol(argv[2]), made = 0;
	struct pollfd input = { .fd = 0, .events = POLLIN };
	struct timespec begun, ended;

	if (argc != 3)
		return 2;
	puts("going");
	fflush(stdout);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	do {
		for (int i = 0; i < BURST; i++)
			syscall(number, 0);
		made += BURST;
	} while (made < least || !poll(&input, 1, 0));
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%ld %ld\n", made,
	       (ended.tv_sec - begun.tv_sec) * 1000000000L + ended.tv_nsec - begun.tv_nsec);
	return 0;
}
