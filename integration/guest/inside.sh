#!/bin/sh
# Runs inside a guest: REPOSITORY RESULTS COMMAND...
#
# The guest's root is this machine's file system by 9p without a cache: every import of Python reads
# it again. The same file system is offered once more, and mounted here with a cache: ten times as fast.
repository=$1 results=$2
shift 2
root=/run/cached
mkdir "$root"
mount -t 9p -o ro,version=9p2000.L,trans=virtio,msize=512000,cache=loose cached "$root" || exit 125
for place in proc sys dev run tmp lib/modules "${results#/}"; do
	mount --rbind "/$place" "$root/$place" || exit 125
done
cd "$root" || exit 125
chroot "$root" /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$repository" "$@" >"$results/output" 2>&1
echo $? >"$results/exit"
