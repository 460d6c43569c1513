/*
 * Attach a program to an interface, swap it for another, detach, with sd-bus.
 *
 * cc filter.c -o filter $(pkg-config --cflags --libs libsystemd)
 * usage: filter INTERFACE OBJECT OLD NEW
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#define BPFLINKD "org.bpflinkd1", "/org/bpflinkd1", "org.bpflinkd1.Manager"

/* A copy that nobody can change any more: from callers that are not root, bpflinkd takes nothing else. */
static int sealed(const char *path)
{
	int file = -1, copy = -1;
	struct stat status;

	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &status) < 0)
		goto failed;
	copy = memfd_create("program", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (copy < 0)
		goto failed;
	for (off_t left = status.st_size; left > 0;) {
		ssize_t sent = sendfile(copy, file, NULL, left);

		if (sent <= 0)
			goto failed;
		left -= sent;
	}
	if (fcntl(copy, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		goto failed;
	close(file);
	return copy;
failed:
	perror(path);
	if (file >= 0)
		close(file);
	if (copy >= 0)
		close(copy);
	return -1;
}

/* Errors are org.bpflinkd1.Error.*: a sentence and, where the verifier spoke, an empty line and its log. */
static int refused(int result, sd_bus_error *error)
{
	if (result < 0)
		fprintf(stderr, "%s: %s\n", error->name ? error->name : "failed",
			error->message ? error->message : strerror(-result));
	sd_bus_error_free(error);
	return result;
}

static int attach(sd_bus *bus, const char *interface, int object, const char *program)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	int result = sd_bus_call_method(bus, BPFLINKD, "Attach", &error, NULL, "sa{sv}a{sv}a{sv}",
					"example",
					1, "xdp", "s", interface,
					2, "object", "h", object, "name", "s", program,
					1, "policy", "s", "alert");

	return refused(result, &error);
}

static int replace(sd_bus *bus, int object, const char *program, uint64_t *generation)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	sd_bus_message *answer = NULL;
	int result = sd_bus_call_method(bus, BPFLINKD, "Replace", &error, &answer, "sa{sv}a{sv}",
					"example",
					2, "object", "h", object, "name", "s", program,
					1, "expect", "t", (uint64_t)1);

	if (result >= 0)
		result = sd_bus_message_read(answer, "t", generation);
	sd_bus_message_unref(answer);
	return refused(result, &error);
}

static int detach(sd_bus *bus)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;

	return refused(sd_bus_call_method(bus, BPFLINKD, "Detach", &error, NULL, "sa{sv}", "example", 0), &error);
}

int main(int argc, char **argv)
{
	uint64_t generation;
	sd_bus *bus = NULL;
	int object, result;

	if (argc != 5) {
		fprintf(stderr, "usage: %s INTERFACE OBJECT OLD NEW\n", argv[0]);
		return 2;
	}
	object = sealed(argv[2]);
	if (object < 0)
		return 1;
	result = sd_bus_open_system(&bus);
	if (result < 0) {
		fprintf(stderr, "the system bus: %s\n", strerror(-result));
		return 1;
	}
	result = attach(bus, argv[1], object, argv[3]);
	if (result >= 0) {
		printf("attached %s\n", argv[3]);
		result = replace(bus, object, argv[4], &generation);
	}
	if (result >= 0) {
		printf("generation %" PRIu64 " runs %s\n", generation, argv[4]);
		result = detach(bus);
	}
	if (result >= 0)
		printf("detached\n");
	sd_bus_flush_close_unref(bus);
	close(object);
	return result < 0;
}
