/* Hashes standard input with FNV-1a and keeps a running mean of its bytes: a
 * program as tenants write them, with floating point. */
#include <stdint.h>
#include <stdio.h>

int main(void) {
	static unsigned char buffer[65536];
	uint64_t hash = 0xcbf29ce484222325u;
	double mean = 0, variance = 0;
	float slow = 0;
	size_t n, count = 0;
	while ((n = fread(buffer, 1, sizeof buffer, stdin)) > 0)
		for (size_t i = 0; i < n; i++) {
			hash = (hash ^ buffer[i]) * 0x100000001b3u;
			double d = buffer[i] - mean;
			mean += d / (double)++count;
			variance += d * (buffer[i] - mean);
			slow = slow * 0.99f + (float)buffer[i] * 0.01f;
		}
	printf("%zu bytes, hash %016llx, mean %.17g, variance %.17g, slow %.9g\n", count,
	       (unsigned long long)hash, mean, variance / (double)count, slow);
	return 0;
}
