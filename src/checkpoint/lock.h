/* One run at a time in a directory.
 * Floor 7: checkpoint; for the files of src/checkpoint only.  Rank 0 only. */
#ifndef MPRESS_LOCK_H
#define MPRESS_LOCK_H

#include "mpress/error.h"

#define MP_LOCK_FILE "lock"

/* Takes DIR/lock, a lock of the system that ends with the process however that ends; the file stays.
 * MP_ERR_FORMAT where another run holds it.  A file system without locks is warned
 * of, and *lock then keeps nobody out. */
mp_status mp_lock_take(const char *dir, int *lock);

/* Says in the file who holds it. */
mp_status mp_lock_sign(int lock, const char *dir);

/* Gives it back; -1 is fine. */
void mp_lock_release(int lock);

#endif
