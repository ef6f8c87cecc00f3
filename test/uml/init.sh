#!/bin/sh
# The first process of the kernel: makes it a place to work in, runs the command,
# and tells its exit status. Everything it has to do with Run is in its own folder:
#
#   read     kernel/lib/modules   modules writable command
#   written  booted | failed      stdout stderr status
#
# It never ends: Run ends the kernel when it has read the status.
here=${0%/*}
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

rest() { while :; do sleep 3600; done; }
must() {
	"$@" && return
	echo "$*" >"$here/failed"
	rest
}

# The root is this machine's, with all changes kept in memory. Until it is, mount must
# not write down what it did (-n): that would be in this machine's /run.
must mount -n -t proc proc /proc
must modprobe -d "$here/kernel" overlay
memory=$here/memory root=$here/memory/root
must mount -n -t tmpfs memory "$memory"
must mkdir "$root" "$memory/changes" "$memory/work"
must mount -n -t overlay -o "lowerdir=/,upperdir=$memory/changes,workdir=$memory/work" root "$root"
must mount -n -t devtmpfs dev "$root/dev"

# Folders that are this machine's own, and here: what is written there stays.
must mount -n --bind "$here" "$root$here"
while read -r folder; do
	must mount -n --bind "$folder" "$root$folder"
done <"$here/writable"

must cd "$root"
must mkdir -p mnt lib/modules
must pivot_root . mnt
must umount -n -l /mnt
must mount -n -t tmpfs run /run
must mount -n -t proc proc /proc
must mount -n -t sysfs sysfs /sys
must mkdir -p /dev/pts /dev/shm
must mount -n -t devpts devpts /dev/pts
must mount -n -t tmpfs shm /dev/shm
ln -s /proc/self/fd /dev/fd

release=$(uname -r)
[ -e "/lib/modules/$release" ] || must ln -sfn "/usr/lib/uml/modules/$release" "/lib/modules/$release"
# The kernel has the legacy tables only. On a node with such a kernel that is what the
# name iptables means, and there are no programs for the others.
rm -f /usr/sbin/iptables-nft* /usr/sbin/ip6tables-nft*
for name in iptables ip6tables; do
	for verb in "" -save -restore; do
		ln -sf "$name-legacy$verb" "/usr/sbin/$name$verb"
	done
done
# shellcheck disable=SC2046 # a list of words
must modprobe -a $(cat "$here/modules")
must ip link set lo up
echo uml >/proc/sys/kernel/hostname
ulimit -n 65536

cut -d ' ' -f 1 /proc/uptime >"$here/booted.new"
mv "$here/booted.new" "$here/booted"
sh "$here/command" >>"$here/stdout" 2>>"$here/stderr" </dev/null
echo $? >"$here/status.new"
mv "$here/status.new" "$here/status"
rest
