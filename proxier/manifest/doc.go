// Package manifest feeds a [cluster.Store] from YAML files, so that a node runs
// without an API server.
//
//	directory ─look─► stamps ─settled?─► read ─parse─► objects of one file ─┐
//	    ▲                                   │ bad: the last good ones stay   ├─merge─► Store
//	    └── inotify, or every 750 ms        └─► file:line: object: field     ┘
//
// The stamps of the files (size, mtime, inode) are the truth; the kernel's events
// only say when to look at them. So symbolic links, renames, swapped ConfigMap
// volumes and directories that vanish and come back need no special case.
//
// A change is taken once two looks 100 ms apart agree on it, or after half a
// second of changing. A file counts as a whole: if anything in it is wrong,
// what it held before stays, and the error names the place:
//
//	examples/shop.yaml:12: Service default/web: spec.ports[0].port: "eighty": expected an integer
//
// Files are read as strictly as `kubectl apply --validate=strict` would, with the
// API server's defaults and its checks of the fields that a proxy reads. What
// the API can hold although it is of no use (a loopback address as an endpoint)
// is not an error of the file: the Store names it among its Problems.
package manifest
