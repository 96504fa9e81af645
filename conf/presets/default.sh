# shellcheck shell=bash
# The configs as they are.
: "${measure_args:=--utts 30 --rounds 5}"
