# How Loci's targets are made: one function an idea.

function(loci_compile_options target)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  # No contraction: levels must agree in bits.
  target_compile_options(${target} PRIVATE -fPIC -fopenmp -ffp-contract=off -Wall -Wextra -Wpedantic)
  if(LOCI_WERROR)
    # Both also report faults that are not there, in headers of libraries that g++ 12 inlines.
    target_compile_options(${target} PRIVATE -Werror
      $<$<CXX_COMPILER_ID:GNU>:-Wno-error=maybe-uninitialized -Wno-error=stringop-overflow>)
  endif()
  target_compile_definitions(${target} PUBLIC FMT_HEADER_ONLY=1)
  target_link_options(${target} PUBLIC -fopenmp)
  if(LOCI_SANITIZE)
    target_compile_options(${target} PUBLIC -fsanitize=${LOCI_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(${target} PUBLIC -fsanitize=${LOCI_SANITIZE})
  endif()
endfunction()

# loci_library(name): the shared library `name`, with the objects of name_core in it.
function(loci_library name)
  add_library(${name} SHARED)
  add_library(loci::${name} ALIAS ${name})
  loci_torch_options(${name})
  loci_unity(${name})
  set_target_properties(${name} PROPERTIES DEFINE_SYMBOL "" SOVERSION ${PROJECT_VERSION_MAJOR})
  target_link_libraries(${name} PRIVATE ${name}_core)
  target_compile_features(${name} PUBLIC cxx_std_20)
endfunction()

function(loci_torch_options target)
  loci_compile_options(${target})
  # Torch's own copy of fmt comes before /usr/include; header-only use of either is fine.
  target_link_libraries(${target} PUBLIC torch::torch_cpu torch::c10 fmt::fmt-header-only)
endfunction()

# loci_add_to(target unit file ...): with LOCI_UNITY all files of one unit are compiled as one translation unit, which
# parses the headers of torch once: the nine files of table/ took 19 s in place of 110.
function(loci_add_to target unit)
  foreach(file ${ARGN})
    target_sources(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/${file})
    set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/${file} TARGET_DIRECTORY ${target} PROPERTIES
      UNITY_GROUP ${unit})
  endforeach()
endfunction()

function(loci_unity target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${LOCI_UNITY} UNITY_BUILD_MODE GROUP)
endfunction()

# The room of the calling CMakeLists.txt: `ops` for loci/ops.
macro(loci_room variable)
  get_filename_component(${variable} ${CMAKE_CURRENT_SOURCE_DIR} NAME)
endmacro()

# Files go into the library that LOCI_LIBRARY names, loci_ops or loci (loci/CMakeLists.txt says which rooms).
# loci_core_sources(a.cpp ...): files without torch.
function(loci_core_sources)
  loci_room(room)
  loci_add_to(${LOCI_LIBRARY}_core ${room} ${ARGN})
endfunction()

# loci_sources(a.cpp ...): files with torch.
function(loci_sources)
  if(LOCI_TORCH)
    loci_room(room)
    loci_add_to(${LOCI_LIBRARY} ${room} ${ARGN})
  endif()
endfunction()

# The program of a room's tests, ${room}_test or ${room}_core_test: made when its first test is added.
function(loci_test_program program)
  if(NOT TARGET ${program}_test)
    add_executable(${program}_test)
    loci_unity(${program}_test)
    target_link_libraries(${program}_test PRIVATE GTest::gmock GTest::gtest_main)
    if(program MATCHES "_core$")
      loci_compile_options(${program}_test)
      target_link_libraries(${program}_test PRIVATE loci_core loci_ops_core)
    else()
      loci_torch_options(${program}_test)
      target_link_libraries(${program}_test PRIVATE loci)
    endif()
    add_test(NAME ${program} COMMAND ${program}_test)
  endif()
endfunction()

# loci_core_test(x ...): x_test.cpp, linked with the torch-free floors alone.
function(loci_core_test)
  if(LOCI_TESTS)
    loci_room(room)
    loci_test_program(${room}_core)
    foreach(path ${ARGN})
      loci_add_to(${room}_core_test ${room}_core_test ${path}_test.cpp)
    endforeach()
  endif()
endfunction()

# loci_test(x ...): x_test.cpp, linked with the whole library.
function(loci_test)
  if(LOCI_TESTS AND LOCI_TORCH)
    loci_room(room)
    loci_test_program(${room})
    foreach(path ${ARGN})
      loci_add_to(${room}_test ${room}_test ${path}_test.cpp)
    endforeach()
  endif()
endfunction()

set(LOCI_LEVEL_FLAGS_base "")
set(LOCI_LEVEL_FLAGS_avx2 -mavx2 -mfma)
set(LOCI_LEVEL_FLAGS_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mprefer-vector-width=512)

# loci_op(x): the folder ops/x, with x.cpp, x_test.cpp and, where they exist, x_cpu.cpp, x_kernel.cpp and
# x_kernel_test.cpp, which needs no torch.
# The kernel is compiled three times, in namespaces loci::base, loci::avx2 and loci::avx512.
function(loci_op name)
  set(folder ${CMAKE_CURRENT_SOURCE_DIR}/${name})
  foreach(file ${name}.cpp ${name}_cpu.cpp)
    if(EXISTS ${folder}/${file})
      loci_sources(${name}/${file})
    endif()
  endforeach()
  if(EXISTS ${folder}/${name}_kernel.cpp)
    foreach(level base avx2 avx512)
      add_library(${name}_kernel_${level} OBJECT ${folder}/${name}_kernel.cpp)
      target_include_directories(${name}_kernel_${level} PRIVATE ${PROJECT_SOURCE_DIR})
      target_compile_definitions(${name}_kernel_${level} PRIVATE LOCI_LEVEL=${level})
      target_compile_options(${name}_kernel_${level} PRIVATE -fPIC -O3 -ffp-contract=off -fno-math-errno -Wall -Wextra
        -Wpedantic $<$<BOOL:${LOCI_WERROR}>:-Werror> ${LOCI_LEVEL_FLAGS_${level}})
      if(LOCI_SANITIZE)
        target_compile_options(${name}_kernel_${level} PRIVATE -fsanitize=${LOCI_SANITIZE})
      endif()
      # INTERFACE: whoever links loci_ops_core takes the objects in, libloci_ops too.
      target_sources(loci_ops_core INTERFACE $<TARGET_OBJECTS:${name}_kernel_${level}>)
    endforeach()
  endif()
  if(EXISTS ${folder}/${name}_kernel_test.cpp)
    loci_core_test(${name}/${name}_kernel)
  endif()
  if(EXISTS ${folder}/${name}_test.cpp)
    loci_test(${name}/${name})
  endif()
endfunction()

# loci_test_at_levels(): the room's tests again at every level below the machine's best.
function(loci_test_at_levels)
  loci_room(room)
  if(TARGET ${room}_test)
    foreach(level base avx2)
      add_test(NAME ${room}_at_${level} COMMAND ${room}_test)
      set_tests_properties(${room}_at_${level} PROPERTIES ENVIRONMENT LOCI_CPU_LEVEL=${level})
    endforeach()
  endif()
endfunction()
