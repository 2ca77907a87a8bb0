#include "processors.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace pixelfast {

#if defined(__linux__)

int current_processor() { return sched_getcpu(); }

void leave_processor() {
  const int here = current_processor();
  cpu_set_t allowed;
  if (here < 0 || here >= CPU_SETSIZE || pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(here, &others);
  if (CPU_COUNT(&others) == 0 || pthread_setaffinity_np(pthread_self(), sizeof others, &others) != 0) return;
  pthread_setaffinity_np(pthread_self(), sizeof allowed, &allowed);
}

#else

int current_processor() { return -1; }
void leave_processor() {}

#endif

}  // namespace pixelfast
