// A control plane of Kubernetes as one program, so that its packages are compiled and linked once:
//
//	controlplane etcd|apiserver|kubectl ARGUMENTS
//	controlplane controllers SERVER TOKEN-FILE CA-FILE
//
// The first three are the upstream programs. The last runs those controllers of the controller manager that a rollout needs; all of it
// would be 390 packages more to compile.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	program := os.Args[1]
	os.Args = append([]string{program}, os.Args[2:]...)
	switch program {
	case "etcd":
		etcdmain.Main(os.Args)
	case "apiserver":
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	case "kubectl":
		if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
			util.CheckErr(err)
		}
	case "controllers":
		if len(os.Args) != 4 {
			usage()
		}
		if err := runControllers(os.Args[1], os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "controllers:", err)
			os.Exit(1)
		}
	default:
		usage()
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: controlplane etcd|apiserver|kubectl ARGUMENTS, or controlplane controllers SERVER TOKEN-FILE CA-FILE")
	os.Exit(2)
}
