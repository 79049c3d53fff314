#!/bin/bash
# CLASS ARGUMENT...: one Java process with the variables that upstream's script knows.
home=$(cd "$(dirname "$0")/.." && pwd)
exec java ${KAFKA_HEAP_OPTS:--Xmx256M} ${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseG1GC -Djava.awt.headless=true} \
  ${KAFKA_LOG4J_OPTS:--Dlog4j2.configurationFile=$home/config/log4j2.properties} -Dkafka.logs.dir="${LOG_DIR:-$home/logs}" \
  ${KAFKA_OPTS:-} -cp "$home/libs/*${CLASSPATH:+:$CLASSPATH}" "$@"
