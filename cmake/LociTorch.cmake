# Finds LibTorch without Caffe2Config: that one needs a CUDA toolkit beside a CUDA wheel, even for a CPU program.
# LOCI_TORCH_DIR names an unpacked LibTorch or site-packages/torch; without it the Python of the build is asked.
# Defines the imported targets torch::c10 and torch::torch_cpu, and LOCI_TORCH_VERSION.

if(NOT LOCI_TORCH_DIR)
  find_package(Python3 COMPONENTS Interpreter REQUIRED)
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c
            "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE LOCI_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE loci_torch_result)
  if(NOT loci_torch_result EQUAL 0)
    message(FATAL_ERROR "loci: expected torch in ${Python3_EXECUTABLE} or -DLOCI_TORCH_DIR=<unpacked LibTorch>, "
                        "got neither (run tools/setup)")
  endif()
endif()
set(LOCI_TORCH_DIR "${LOCI_TORCH_DIR}" CACHE PATH "unpacked LibTorch, or site-packages/torch")

set(loci_version_header "${LOCI_TORCH_DIR}/include/torch/headeronly/version.h")
if(NOT EXISTS "${loci_version_header}")
  set(loci_version_header "${LOCI_TORCH_DIR}/include/torch/csrc/api/include/torch/version.h")
endif()
if(NOT EXISTS "${loci_version_header}")
  message(FATAL_ERROR "loci: expected LibTorch in LOCI_TORCH_DIR, got ${LOCI_TORCH_DIR} without torch/version.h")
endif()
file(STRINGS "${loci_version_header}" loci_version_lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE ".*MAJOR ([0-9]+).*" "\\1" loci_major "${loci_version_lines}")
string(REGEX REPLACE ".*MINOR ([0-9]+).*" "\\1" loci_minor "${loci_version_lines}")
string(REGEX REPLACE ".*PATCH ([0-9]+).*" "\\1" loci_patch "${loci_version_lines}")
set(LOCI_TORCH_VERSION "${loci_major}.${loci_minor}.${loci_patch}")
if(LOCI_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "loci: LibTorch must be 2.11 or newer, got ${LOCI_TORCH_VERSION} in ${LOCI_TORCH_DIR}")
endif()

foreach(loci_lib c10 torch_cpu)
  if(NOT TARGET torch::${loci_lib})
    add_library(torch::${loci_lib} SHARED IMPORTED)
    set_target_properties(torch::${loci_lib} PROPERTIES
      IMPORTED_LOCATION "${LOCI_TORCH_DIR}/lib/lib${loci_lib}.so"
      INTERFACE_SYSTEM_INCLUDE_DIRECTORIES
        "${LOCI_TORCH_DIR}/include;${LOCI_TORCH_DIR}/include/torch/csrc/api/include"
      INTERFACE_INCLUDE_DIRECTORIES
        "${LOCI_TORCH_DIR}/include;${LOCI_TORCH_DIR}/include/torch/csrc/api/include")
  endif()
endforeach()
