#!/bin/sh
# Attach a program to an interface, swap it for another, detach, with busctl.
#
# busctl cannot send descriptors, so files cannot travel; the new program is one that is pinned on a bpffs,
# which only root may name. `bpflinkctl` sends files.
#
# usage: filter.sh INTERFACE PIN
set -eu
interface=$1 pin=$2

bpflinkd() {
    method=$1
    shift
    busctl --system call org.bpflinkd1 /org/bpflinkd1 org.bpflinkd1.Manager "$method" "$@"
}

# An a{sv} is written as its length, then for each entry the key, the type and the value.
bpflinkd Attach 'sa{sv}a{sv}a{sv}' example \
    1 xdp s "$interface" \
    1 builtin s pass \
    1 policy s alert >/dev/null
echo "attached pass"
generation=$(bpflinkd Replace 'sa{sv}a{sv}' example 1 pin s "$pin" 1 expect t 1)
echo "generation ${generation#t } runs $pin"
bpflinkd Detach 'sa{sv}' example 0
echo "detached"
