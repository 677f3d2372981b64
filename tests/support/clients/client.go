// Make TCP connect attempts and report each as one JSON line: client HOST PORT COUNT TIMEOUT_MS.
package main

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

type report struct {
	Pid       int     `json:"pid"`
	Runtime   string  `json:"runtime"`
	Host      string  `json:"host"`
	Port      int     `json:"port"`
	Blocking  bool    `json:"blocking"`
	Result    string  `json:"result"`
	Errno     *int    `json:"errno"`
	ErrnoName *string `json:"errno_name"`
	LocalPort *int    `json:"local_port"`
	Seconds   float64 `json:"seconds"`
}

// Names of the errnos that a connect attempt ends with; the standard library has only their texts.
var names = map[syscall.Errno]string{
	syscall.EACCES:        "EACCES",
	syscall.EADDRNOTAVAIL: "EADDRNOTAVAIL",
	syscall.ECONNREFUSED:  "ECONNREFUSED",
	syscall.ECONNRESET:    "ECONNRESET",
	syscall.EHOSTUNREACH:  "EHOSTUNREACH",
	syscall.EINVAL:        "EINVAL",
	syscall.ENETUNREACH:   "ENETUNREACH",
	syscall.EPERM:         "EPERM",
	syscall.ETIMEDOUT:     "ETIMEDOUT",
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return value
}

func attempt(host string, port int, timeout time.Duration) report {
	dialer := net.Dialer{Timeout: timeout}
	started := time.Now()
	connection, err := dialer.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	made := report{Pid: os.Getpid(), Runtime: "go", Host: host, Port: port, Result: "ok"}
	made.Seconds = time.Since(started).Seconds()
	if err == nil {
		local := connection.LocalAddr().(*net.TCPAddr).Port
		made.LocalPort = &local
		connection.Close()
		return made
	}
	var errno syscall.Errno
	var timedOut net.Error
	if errors.As(err, &errno) {
		made.Result = "error"
		value := int(errno)
		made.Errno = &value
		if name, known := names[errno]; known {
			made.ErrnoName = &name
		}
	} else if errors.As(err, &timedOut) && timedOut.Timeout() {
		made.Result = "abandoned"
	} else {
		panic(err)
	}
	return made
}

func main() {
	if len(os.Args) != 5 {
		panic("usage: client HOST PORT COUNT TIMEOUT_MS, with " + runtime.Version())
	}
	lines := json.NewEncoder(os.Stdout)
	for range make([]struct{}, number(os.Args[3])) {
		timeout := time.Duration(number(os.Args[4])) * time.Millisecond
		if err := lines.Encode(attempt(os.Args[1], number(os.Args[2]), timeout)); err != nil {
			panic(err)
		}
	}
}
