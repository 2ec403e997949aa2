# Writes MPRESS_COMMIT, "abc1234" or "abc1234-dirty" ("unknown" outside a checkout), if it changed.
execute_process(COMMAND git -C ${SOURCE_DIR} describe --always --dirty --abbrev=12
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
    set(commit "unknown")
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#define MPRESS_COMMIT \"@commit@\"\n" @ONLY)
