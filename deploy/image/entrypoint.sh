#!/bin/sh
# numba loads compiled code only from a writable folder, and the image's root is read-only: copy the compiled code.
cp -R /opt/memamba/numba "$NUMBA_CACHE_DIR" 2>/dev/null || true
exec "$@"
