#!/usr/bin/env bash
# Installs the Debian packages that the proxy calls and that are missing, and
# those named as arguments. Does nothing when all are there.
set -euo pipefail

export PATH="$PATH:/usr/sbin:/sbin"

# The program that each package is needed for.
declare -A program=([iptables]=iptables [ipset]=ipset [conntrack]=conntrack [iproute2]=ip [gcc]=gcc
	[ipvsadm]=ipvsadm [user-mode-linux]=linux.uml [kmod]=modprobe)

# A library has no program: dpkg knows.
there() {
	if [ -n "${program[$1]:-}" ]; then
		command -v "${program[$1]}" >/dev/null
	else
		dpkg -s "$1" >/dev/null 2>&1
	fi
}

missing=()
for package in iptables ipset conntrack iproute2 "$@"; do
	there "$package" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi

fail() {
	echo "install.sh: $1" >&2
	echo "install.sh: install these yourself, then try again: ${missing[*]}" >&2
	exit 1
}

command -v apt-get >/dev/null || fail "this is not a Debian (no apt-get)"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null || fail "packages are missing, and this is neither root nor is there sudo"
	as_root=(sudo)
fi

echo "installing ${missing[*]} (${as_root[*]:+with ${as_root[*]}, }apt-get)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" >"$log" 2>&1 ||
		{ tail -n 20 "$log" >&2; fail "apt-get $1 failed"; }
}
apt update
apt install -y --no-install-recommends "${missing[@]}"
for package in "${missing[@]}"; do
	there "$package" || fail "$package is installed, but there is no ${program[$package]:-trace of it}"
done
echo "installed: ${missing[*]}"
