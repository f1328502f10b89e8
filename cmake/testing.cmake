# How tests are registered. One call makes the executable (if there are sources) and the ctest case:
#
#   mooring_add_test(NAME
#       [SOURCES a.c ...]      the test's executable; without it COMMAND is what runs
#       [COMMAND prog ARG ...] default: the executable. A target's name stands for its file
#       [ARGS ARG ...]         for the executable
#       [LABELS l ...]         unit (default), sim, fuzz, e2e, bench-smoke, check; long = only with
#                              ./run test --long; set here: live = with a database, Redis or sshd,
#                              not under TSan; again = the second backend of those and of what hardly
#                              depends on it. Both run with --long
#       [PUBLIC]               link mooring::mooring (public headers), not the library's objects
#       [LIBS target ...]      more to link
#       [BACKENDS]             run once per backend, as NAME@io_uring and NAME@epoll, with
#                              MOORING_IO_BACKEND set accordingly
#       [ENV VAR=VALUE ...]    [TIMEOUT seconds: 120] [SERIAL])
#
# Exit status 77 is "skipped": print which feature is missing before.
#
#   mooring_add_fuzz_target(fuzz_X SOURCES fuzz_x.c ... [CORPUS dir: corpus/X beside it])
#
# registers a libFuzzer target (LLVMFuzzerTestOneInput): with MOORING_FUZZ it is a fuzzer, otherwise
# a program that replays the corpus, and the ctest case is the replay in both.

set(MOORING_TEST_ENVIRONMENT
    "ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=1"
    "UBSAN_OPTIONS=print_stacktrace=1"
    "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1")

function(mooring_register_test name backend)
  cmake_parse_arguments(PARSE_ARGV 2 t "SERIAL" "TIMEOUT" "COMMAND;LABELS;ENV")
  set(case "${name}")
  set(environment ${MOORING_TEST_ENVIRONMENT} ${t_ENV})
  if(backend)
    set(case "${name}@${backend}")
    list(APPEND environment "MOORING_IO_BACKEND=${backend}")
    list(APPEND t_LABELS "${backend}")
    if(name MATCHES "^(postgres|mysql|redis|ssh|mooring_pool)")
      list(APPEND t_LABELS live)
    endif()
    if(backend STREQUAL "epoll" AND
       name MATCHES "^(postgres|mysql|redis|ssh|mooring_pool|rack|handle|driver)_")
      list(APPEND t_LABELS again)
    endif()
  endif()
  add_test(NAME "${case}" COMMAND ${t_COMMAND} WORKING_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}")
  set_tests_properties("${case}" PROPERTIES
    LABELS "${t_LABELS}" ENVIRONMENT "${environment}" TIMEOUT ${t_TIMEOUT} SKIP_RETURN_CODE 77)
  if(t_SERIAL)
    set_tests_properties("${case}" PROPERTIES RUN_SERIAL ON)
  endif()
endfunction()

function(mooring_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 t "PUBLIC;BACKENDS;SERIAL" "TIMEOUT"
                        "SOURCES;COMMAND;ARGS;LABELS;LIBS;ENV")
  if(t_UNPARSED_ARGUMENTS OR NOT (t_SOURCES OR t_COMMAND))
    message(FATAL_ERROR "mooring_add_test(${name}): SOURCES or COMMAND, not ${t_UNPARSED_ARGUMENTS}")
  endif()
  if(t_SOURCES)
    add_executable(${name} ${t_SOURCES})
    if(t_PUBLIC)
      target_link_libraries(${name} PRIVATE mooring::mooring ${t_LIBS})
      target_compile_definitions(${name} PRIVATE _GNU_SOURCE)
    else()
      target_link_libraries(${name} PRIVATE mooring_objects ${t_LIBS})
    endif()
    if(NOT t_COMMAND)
      set(t_COMMAND ${name} ${t_ARGS})
    endif()
  endif()
  if(NOT t_LABELS)
    set(t_LABELS unit)
  endif()
  if(NOT t_TIMEOUT)
    set(t_TIMEOUT 120)
  endif()
  set(serial "")
  if(t_SERIAL)
    set(serial SERIAL)
  endif()
  set(backends "-")
  if(t_BACKENDS)
    set(backends io_uring epoll)
  endif()
  foreach(backend IN LISTS backends)
    string(REPLACE "-" "" backend "${backend}")
    mooring_register_test(${name} "${backend}" ${serial} TIMEOUT ${t_TIMEOUT}
                          COMMAND ${t_COMMAND} LABELS ${t_LABELS} ENV ${t_ENV})
  endforeach()
endfunction()

function(mooring_add_fuzz_target name)
  cmake_parse_arguments(PARSE_ARGV 1 t "" "CORPUS;TIMEOUT" "SOURCES;LIBS;ENV")
  add_executable(${name} ${t_SOURCES})
  target_link_libraries(${name} PRIVATE mooring_objects ${t_LIBS})
  if(MOORING_FUZZ)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    set(replay ${name} -runs=0)
  else()
    target_sources(${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests/support/fuzz_replay.c")
    set(replay ${name})
  endif()
  if(NOT t_CORPUS)
    string(REGEX REPLACE "^fuzz_" "" subject "${name}")
    set(t_CORPUS "${CMAKE_CURRENT_SOURCE_DIR}/corpus/${subject}")
  endif()
  if(NOT t_TIMEOUT)
    set(t_TIMEOUT 120)
  endif()
  mooring_register_test(${name} "" TIMEOUT ${t_TIMEOUT} COMMAND ${replay} "${t_CORPUS}"
                        LABELS fuzz ENV ${t_ENV})
endfunction()
