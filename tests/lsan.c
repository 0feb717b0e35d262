// Linked into sanitizer builds: keeps Open MPI's own leaks out of LeakSanitizer's report, so that flowrank's are seen.
// What Open MPI allocates while it starts and ends is not looked at; what it allocates later is named in lsan.supp.
#include <dlfcn.h>
#include <mpi.h>
#include <sanitizer/lsan_interface.h>

int MPI_Init(int *argc, char ***argv) {
  __lsan_disable();
  const int status = PMPI_Init(argc, argv);
  __lsan_enable();
  return status;
}

int MPI_Init_thread(int *argc, char ***argv, int required, int *provided) {
  __lsan_disable();
  const int status = PMPI_Init_thread(argc, argv, required, provided);
  __lsan_enable();
  return status;
}

int MPI_Finalize(void) {
  __lsan_disable();
  const int status = PMPI_Finalize();
  __lsan_enable();
  return status;
}

// Plugins stay loaded, or their leaks could not be told by their library's name.
int dlclose(void *handle) {
  (void)handle;
  return 0;
}
