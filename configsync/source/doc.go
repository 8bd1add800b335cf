// Package source brings the API objects that configuration volumes show: one watch an object, for as long as somebody
// refers to it, with the last good state kept whatever the API server does.
//
// A watch is a list and watch of the single object by its name, which is all that the Node authorizer lets a kubelet
// do with ConfigMaps and Secrets of its pods. client-go's reflector drives it: a 410 Gone makes it list anew, and every
// watch ends after 5 to 10 minutes. Beyond that, a watch that has not even brought a bookmark for a while is taken for
// dead and opened again by the next Get.
//
// An immutable object needs no watch, as it can change only by being deleted and made again. For these Get asks the
// API server from time to time, so that one that was made again, with another UID, is seen.
package source
