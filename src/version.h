#ifndef FLOWRANK_VERSION_H
#define FLOWRANK_VERSION_H

#ifndef FLOWRANK_VERSION // the build gives it from CMakeLists.txt
#define FLOWRANK_VERSION "unknown"
#endif

#endif
