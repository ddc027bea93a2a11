/* Shows a C program of wasi-libc what differs from run to run elsewhere, and
 * what is missing in the sandbox. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
	char input[64] = {0};
	size_t n = fread(input, 1, sizeof input - 1, stdin);
	printf("%d arguments, %s; KEY=%s; read %zu bytes: %s\n", argc, argv[1], getenv("KEY"), n, input);

	struct timespec before, after, pause = {3, 500};
	clock_gettime(CLOCK_MONOTONIC, &before);
	nanosleep(&pause, NULL);
	clock_gettime(CLOCK_MONOTONIC, &after);
	printf("slept %lld.%09ld, time %lld\n", (long long)(after.tv_sec - before.tv_sec),
	       after.tv_nsec - before.tv_nsec, (long long)time(NULL));

	unsigned char secret[16];
	getentropy(secret, sizeof secret);
	for (size_t i = 0; i < sizeof secret; i++)
		printf("%02x", secret[i]);
	printf(" heap %p tty %d\n", malloc(100000), isatty(1));

	printf("open: %s; ", open("/etc/passwd", O_RDONLY) < 0 ? strerror(errno) : "opened");
	printf("seek: %s\n", lseek(0, 0, SEEK_SET) < 0 ? strerror(errno) : "sought");
	double sum = 0;
	for (int i = 1; i < 1000; i++)
		sum += 1.0 / i;
	printf("%.17g\n", sum);
	fprintf(stderr, "diagnostics\n");
	return 3;
}
