#!/bin/sh
# Trains when it is given nothing or options only, and runs any other command. By exec, so that the SIGTERM of docker stop
# reaches the trainer, which then writes its checkpoint.
case "${1-}" in
    "" | -*) exec python -m train.tsm "$@" ;;
    *) exec "$@" ;;
esac
