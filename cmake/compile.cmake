# Flags for everything that is built here: warnings, optimisation, hardening, sanitizers.

add_compile_options(
  -Wall -Wextra -Wshadow -Wvla -Wpointer-arith -Wformat=2 -Wwrite-strings
  "$<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes;-Wmissing-prototypes;-Wold-style-definition>"
  # Capabilities a header declares (which thread may call, which lock is held): clang proves them.
  "$<$<C_COMPILER_ID:Clang>:-Wthread-safety>")
if(MOORING_WERROR)
  add_compile_options(-Werror)
endif()

# Sections per function let the program that links the static library drop what it does not call.
add_compile_options(-g -ffunction-sections -fdata-sections)
add_link_options(-Wl,--gc-sections)

# -O2, not -O3: the hot paths are small and the difference is code size. No NDEBUG: MR_ASSERT is
# always compiled, and nothing else looks at it. The host's asserts are not ours to switch off.
set(CMAKE_C_FLAGS_RELEASE "-O2")
set(CMAKE_CXX_FLAGS_RELEASE "-O2")

if(MOORING_DEBUG)
  add_compile_definitions(MR_DEBUG=1)
endif()

if(MOORING_SANITIZE)
  add_compile_options(-fsanitize=${MOORING_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${MOORING_SANITIZE})
  if(MOORING_SANITIZE MATCHES "thread" AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
    # ThreadSanitizer does not see fences. Ours order atomics only, so it cannot take that for a race.
    add_compile_options(-Wno-tsan)
  endif()
  # UBSan prints and goes on by default: a test would pass over it.
  add_compile_options(-fno-sanitize-recover=all)
else()
  # The bytes parsed here come from other people's servers. FORTIFY hides overlong reads from
  # sanitizers, so the two are never combined; it needs optimisation.
  add_compile_options(-fstack-protector-strong
                      "$<$<NOT:$<CONFIG:Debug>>:-U_FORTIFY_SOURCE;-D_FORTIFY_SOURCE=2>")
endif()

if(MOORING_COVERAGE)
  # Shards count from several threads: without atomic updates lines are lost or go negative.
  add_compile_options(--coverage -fprofile-update=atomic)
  add_link_options(--coverage)
endif()
