#!/bin/sh
# numba reads compiled code only from a folder that it can write to, and the image's root is read-only: it gets a copy.
cp -R /opt/memamba/numba "$NUMBA_CACHE_DIR" 2>/dev/null || true
exec "$@"
