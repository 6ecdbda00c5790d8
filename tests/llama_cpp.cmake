# Headers are read once for many files, which halves the time that llama.cpp takes to compile. What it
# shares with its tools cannot be compiled so.
set(CMAKE_UNITY_BUILD ON)
cmake_language(DEFER CALL set_target_properties llama-common PROPERTIES UNITY_BUILD OFF)
