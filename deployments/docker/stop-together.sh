#!/bin/sh
# Run a command; when the container is stopped, ask every process in it to end, and stay until all have. A Prefect
# worker that is stopped kills its flows at once and the container would end with it: a training in a process group of
# its own could not save its checkpoint. Runs under an init, which is process 1.
"$@" &
command=$!
trap 'kill -TERM -1' TERM INT
wait "$command"
status=$?
processes() {
    set -- /proc/[0-9]*
    echo "$#"
}
# Left are the init, this shell and the subshell that counts.
while [ "$(processes)" -gt 3 ]; do
    sleep 0.2
done
exit "$status"
