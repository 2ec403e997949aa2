# Writes OUTPUT, a C header with the bytes of INPUT as the string NAME, a line for a line.  (A literal
# would do but for the 4095 characters that ISO C promises.)
file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
string(REPLACE "0x0a," "0x0a,\n" bytes "${bytes}")
file(WRITE ${OUTPUT} "static const char ${NAME}[] = {\n${bytes}0};\n")
