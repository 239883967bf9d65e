#!/usr/bin/env bash
# Runs the README's two commands in a fresh clone of the committed tree, with an environment built from nothing.
#
#   pipelines/check_fresh_clone.sh [DIRECTORY]
#
# DIRECTORY must not exist; without it a temporary one is made, and removed when all went well. Uncommitted changes are
# not tested, which is the point. Exit code: that of the first command that failed.
set -euo pipefail
root=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
if [ $# -gt 0 ]; then
    clone=$1 keep=yes
else
    clone=$(mktemp -d)/callic-archive keep=
fi
git clone --quiet --no-hardlinks "$root" "$clone"
cd "$clone"
# An environment that is active in the calling shell must not help.
if [ -n "${VIRTUAL_ENV:-}" ]; then
    PATH=$(printf %s "$PATH" | tr : '\n' | grep -vxF "$VIRTUAL_ENV/bin" | paste -sd :)
    unset VIRTUAL_ENV
fi
unset PYTHONPATH PYTHONHOME MAKEFLAGS MFLAGS MAKELEVEL
.ci/stage "make demo" make demo
.ci/stage "make test" make test
if [ -n "$(git status --porcelain)" ]; then
    echo "The two commands left files behind that git does not ignore:" >&2
    git status --short >&2
    exit 1
fi
if [ -z "$keep" ]; then rm -rf "$(dirname "$clone")"; fi
echo "Both commands succeed in a fresh clone of $(git rev-parse --short HEAD)."
