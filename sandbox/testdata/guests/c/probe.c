/* Every way in which a C program could end, and what it could see that differs
 * from run to run elsewhere. Its first argument says which. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void clocks(void) {
	struct timespec t, pause = {3, 500};
	for (int i = 0; i < 3; i++) {
		clock_gettime(CLOCK_MONOTONIC, &t);
		printf("%lld.%09ld ", (long long)t.tv_sec, t.tv_nsec);
		clock_gettime(CLOCK_REALTIME, &t);
		printf("%lld.%09ld\n", (long long)t.tv_sec, t.tv_nsec);
		nanosleep(&pause, NULL);
	}
}

static void randoms(void) {
	unsigned char secret[32];
	getentropy(secret, sizeof secret);
	for (size_t i = 0; i < sizeof secret; i++)
		printf("%02x", secret[i]);
	printf(" %p %p\n", malloc(100), malloc(1000000));
}

static uint64_t bits(double d) {
	uint64_t u;
	memcpy(&u, &d, sizeof u);
	return u;
}

/* Prints the bits of NaNs that operations make out of others. */
static void nans(void) {
	volatile double nan1 = __builtin_nan("0x123"), nan2 = __builtin_nan("0x456"), zero = 0, inf = INFINITY;
	volatile float small = __builtin_nanf("0x77");
	double list[] = {nan1 + nan2, nan2 - nan1, nan1 * zero, zero / zero, inf - inf, sqrt(-1 - zero), fabs(-nan1), -nan1,
	                 (float)nan1, small, small * 2, ceil(nan1), floor(nan2), trunc(nan1), rint(nan2), copysign(nan1, -1.0)};
	for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
		printf("%016llx ", (unsigned long long)bits(list[i]));
	printf("\n");
}

/* Grows the memory and looks whether it is clear. */
static void grow(void) {
	size_t sum = 0, pages;
	for (pages = 0; __builtin_wasm_memory_grow(0, 1) != (size_t)-1; pages++) {
		unsigned char *p = (unsigned char *)((__builtin_wasm_memory_size(0) - 1) << 16);
		for (int i = 0; i < 65536; i++)
			sum += p[i];
		memset(p, 0xa5, 65536);
	}
	printf("%zu pages, sum %zu\n", pages, sum);
}

static unsigned recurse(volatile unsigned *n) {
	volatile unsigned here = *n + 1;
	return here == 0 ? 0 : recurse(&here) + *n;
}

int main(int argc, char **argv) {
	const char *what = argc > 1 ? argv[1] : "";
	volatile unsigned zero = 0;
	if (!strcmp(what, "clock"))
		clocks();
	else if (!strcmp(what, "random"))
		randoms();
	else if (!strcmp(what, "nan"))
		nans();
	else if (!strcmp(what, "grow"))
		grow();
	else if (!strcmp(what, "environ"))
		for (char **e = environ; *e; e++)
			printf("%s %s\n", *e, argv[0]);
	else if (!strcmp(what, "files"))
		printf("%d %s\n", open("/etc/passwd", O_RDONLY), strerror(errno));
	else if (!strcmp(what, "stderr"))
		fprintf(stderr, "diagnostics\n");
	else if (!strcmp(what, "exit"))
		return atoi(argv[2]);
	else if (!strcmp(what, "abort"))
		abort();
	else if (!strcmp(what, "divide"))
		printf("%u\n", (unsigned)argc / zero);
	else if (!strcmp(what, "pointer"))
		printf("%d\n", *(volatile int *)(zero - 16));
	else if (!strcmp(what, "recurse"))
		printf("%u\n", recurse(&zero));
	else if (!strcmp(what, "spin"))
		for (;;)
			zero++;
	else if (!strcmp(what, "allocate")) {
		size_t n = 0;
		for (char *volatile p; (p = malloc(100000)); n++)
			memset(p, 1, 100000);
		printf("%zu blocks\n", n);
	} else if (!strcmp(what, "flood"))
		for (;;)
			puts("flood");
	else
		return 64;
	return 0;
}
