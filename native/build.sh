#!/usr/bin/env bash
# Builds the native addon, build/lib/caisson.node, and the stand-in of a container's process, build/libexec/caisson-stand-in.
set -euo pipefail
source "$(dirname "$0")/../scripts/lib.sh"

need_cargo "$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/native/Cargo.toml")"
tree_lock native
use_target native

# Cargo knows best what changed; the stamp only spares asking it.
stamp=$build/lib/.native.key
now=$(key "$root/native" "$(cargo --version)")
if [[ -f $build/lib/caisson.node && -f $build/libexec/caisson-stand-in && $(cat "$stamp" 2>/dev/null) == "$now" ]]; then exit; fi

cd "$root/native"
step 'Build the native addon' cargo build --release --locked
put_changed "$CARGO_TARGET_DIR/release/libcaisson.so" "$build/lib/caisson.node"
put_changed "$CARGO_TARGET_DIR/release/caisson-stand-in" "$build/libexec/caisson-stand-in"
echo "$now" >"$stamp"
