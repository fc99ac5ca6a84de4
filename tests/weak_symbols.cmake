# cmake -DNM=nm -DNAMESPACE=neox::avx512 "-DOBJECTS=a.o;b.o" -P weak_symbols.cmake
# An inline function of any other namespace that one of these objects defines is compiled for their instruction set, and the linker, which
# keeps one definition of each, may give it to code that runs on every machine. So there must be none.
foreach(object ${OBJECTS})
  execute_process(COMMAND ${NM} -C --defined-only ${object} OUTPUT_VARIABLE symbols RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${NM} cannot read ${object}")
  endif()
  string(REGEX MATCHALL "[0-9a-f]+ [A-Za-z] [^\n]+" symbols "${symbols}")
  if(NOT symbols MATCHES " ${NAMESPACE}::")
    message(SEND_ERROR "${object} defines nothing in ${NAMESPACE}: is it the right object?")
  endif()
  foreach(symbol ${symbols})
    if(symbol MATCHES "^[0-9a-f]+ [WVu] " AND NOT symbol MATCHES "^[0-9a-f]+ [WVu] ([^(<]* )?${NAMESPACE}::")
      message(SEND_ERROR "${object} defines a weak symbol outside ${NAMESPACE}: ${symbol}")
    endif()
  endforeach()
endforeach()
