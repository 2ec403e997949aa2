# Writes MPRESS_COMMIT, "abc1234" or "abc1234-dirty", and MPRESS_DATE, the day of the commit ("unknown" and
# "" outside a checkout), if one of them changed.
execute_process(COMMAND git -C ${SOURCE_DIR} describe --always --dirty --abbrev=12
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
    set(commit "unknown")
endif()
execute_process(COMMAND git -C ${SOURCE_DIR} log -1 --format=%cs
    OUTPUT_VARIABLE date OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
    set(date "")
endif()
file(CONFIGURE OUTPUT ${OUTPUT} @ONLY
    CONTENT "#define MPRESS_COMMIT \"@commit@\"\n#define MPRESS_DATE \"@date@\"\n")
