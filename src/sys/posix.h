/* posix.h - what the files of src/sys share on POSIX systems. */

#ifndef PIER_SYS_POSIX_H
#define PIER_SYS_POSIX_H

#include "base/check.h"
#include "sys/sys.h"

/* Reads errno, keeps it as the thread's native code, and returns the PIER_E* for it. */
PIER__COLD int pier__sys_errno(void);

/* Whether it can be written this instant without waiting; pier__sys_can_read() is in sys.h. */
bool pier__sys_can_write(pier_descriptor descriptor);

/* Turns a call's result into pier's: itself when >= 0, else the error. */
static PIER__EXPRESSION int64_t pier__sys_result(int64_t result)
{
    if (PIER__LIKELY(result >= 0)) {
        return result;
    }
    int error = pier__sys_errno();
    PIER__TAKE_FOR_GRANTED(error < 0); /* spares the caller a second look at the sign */
    return error;
}

/* Leaves the calling function when the tests make this call fail. */
#define PIER__FAULT(call) \
    do { \
        int fault_ = pier__fault(PIER__CALL_##call); \
        if (fault_ != 0) { \
            return fault_; \
        } \
    } while (0)

#endif
