#!/bin/sh
# Makes the root of the image: copies the programs that kube-proxy runs, with the
# libraries they load, from the system around into an empty folder. No shell, no
# package manager.
#
#   collect.sh folder
#
# Both flavours of iptables, since the node decides which is in use, under the
# names with the flavour in them, by which kube-proxy looks for them. The plain
# names are the nft flavour, for people who look around with kubectl exec.
# modprobe is what iptables-legacy and the IPVS mode call for missing modules.
set -eu
PATH=/usr/sbin:/sbin:/usr/bin:/bin
root=$1

# install_file copies a file to its own place under the root, and what it links to
# as a file of its own.
install_file() {
	mkdir -p "$root$(dirname "$1")"
	cp -L "$1" "$root$1"
}

# libraries lists what a program or library loads, the dynamic linker included.
libraries() {
	ldd "$1" | sed -n -e 's/.*=> \(\/[^ ]*\) .*/\1/p' -e 's/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p'
}

mkdir -p "$root/usr/sbin" "$root/run" "$root/tmp" "$root/proc" "$root/sys" "$root/dev" \
	"$root/lib/modules" "$root/var/lib/kube-proxy"

for flavour in nft legacy; do
	install_file "/usr/sbin/xtables-$flavour-multi"
	for tool in iptables ip6tables; do
		for end in "" -save -restore; do
			ln -s "xtables-$flavour-multi" "$root/usr/sbin/$tool-$flavour$end"
			if [ "$flavour" = nft ]; then
				ln -s "xtables-nft-multi" "$root/usr/sbin/$tool$end"
			fi
		done
	done
done

# One folder of matches and targets serves both flavours.
extensions=$(dirname "$(find /usr/lib -name libxt_comment.so | head -n 1)")
for file in "$extensions"/*.so; do
	install_file "$file"
done

install_file "$(command -v kmod)"
ln -s "$(command -v kmod)" "$root/usr/sbin/modprobe"

for file in "$root"/usr/sbin/xtables-*-multi "$root$(command -v kmod)" "$root$extensions"/*.so; do
	libraries "$file"
done | sort -u | while read -r library; do
	install_file "$library"
done
