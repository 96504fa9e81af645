#!/usr/bin/env bash
# Stands in for Kaldi's run.pl: [--option value ...] [JOB=1:N] LOG COMMAND...
set -eu
last=1
while :; do
    case $1 in
        --*) shift 2 ;;
        JOB=*) last=${1#*:}; shift ;;
        *) break ;;
    esac
done
log=$1; shift
for job in $(seq "${last}"); do
    mkdir -p "$(dirname "${log/JOB/${job}}")"
    "${@//JOB/${job}}" >"${log/JOB/${job}}" 2>&1 || { echo "failed: ${log}" >&2; exit 1; }
done
