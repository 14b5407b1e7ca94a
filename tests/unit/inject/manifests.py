"""Manifests of every kind and layout that a pod can stand in."""

from __future__ import annotations

import json

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: web
    image: nginx
"""


def template(kind: str, *, api: str = "apps/v1") -> str:
    """An object with a template, as `kubectl create --dry-run=client -o yaml` prints one."""
    return f"""\
apiVersion: {api}
kind: {kind}
metadata:
  creationTimestamp: null
  labels:
    app: web
  name: web
spec:
  {"serviceName: web" if kind == "StatefulSet" else "replicas: 1"}
  selector:
    matchLabels:
      app: web
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      - image: nginx
        name: web
        resources: {{}}
{"status: {}" if kind == "Deployment" else ""}
"""


CRON_JOB = """\
apiVersion: batch/v1
kind: CronJob
metadata: {name: 每日}
spec:
  schedule: "0 3 * * *" # 凌晨三点
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: work
              image: "busybox"
              command:
                - sh
                - -c
                - |
                  # 不是注释
                  echo 完成

"""
WITH_OTHERS = """\
# 应用，带有自己的初始化容器
apiVersion: apps/v1
kind: Deployment
metadata:
  name: productpage-v1
spec:
  selector: {matchLabels: {app: productpage}}
  template:
    metadata:
      labels: {app: productpage}
      annotations:
        traffic.sidecar.istio.io/excludeOutboundPorts: "3306, 5432" # 数据库
    spec:
      # 先等数据库
      initContainers:
      - name: wait
        image: busybox
        command: ["sh", "-c", "until nc -z db 3306; do sleep 1; done"] # 等待
      # 容器在下面

      containers:
      # 挂载配置
      - name: productpage
        image: istio/examples-bookinfo-productpage-v1:1.8.0
"""
NGINX = """\
# 部署一个deployment,创建nginx
apiVersion: apps/v1
kind: Deployment
metadata:
  name: nginx-deployment
spec:
  replicas: 3
  selector:
    matchLabels:
      app: nginx
  template:
    metadata:
      labels:
        app: nginx
    spec:
      containers:
      - name: nginx # 核心容器
        image: nginx:latest
        ports:
        # 监听 80 端口
        - containerPort: 80
"""
INDENTED = """\
apiVersion: v1
kind: Pod
metadata:
    name: deep
spec:
    initContainers:
        - name: one
          image: one
          args:
            - |
              text
              # of the script

        # between the two
        - image: two
          name: two
          env: []
    containers: [{name: web, image: nginx}]
"""
BOOK = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "书", "annotations": {"sidecar.istio.io/interceptionMode": "REDIRECT"}},
    "spec": {"containers": [{"name": "书", "image": "nginx"}]},
}
OTHER_FIRST = {"initContainers": [{"name": "wait", "image": "busybox"}], "containers": [{"name": "a", "image": "b"}]}
ALIASES = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: one}
  spec: &spec
    containers: &containers
    - name: web
      image: nginx
- apiVersion: v1
  kind: Pod
  metadata: {name: two}
  spec: *spec
- apiVersion: v1
  kind: Pod
  metadata: {name: three}
  spec:
    containers: *containers
- apiVersion: v1
  kind: Pod
  metadata: {name: four}
  spec:
    initContainers:
    - name: wait
      image: busybox
      env: *containers
    <<: {restartPolicy: Never}
    containers: *containers
"""
SERVICE = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  ports:\n  - port: 80\n"

GOOD: dict[str, str] = {
    "pod": POD,
    "pod without a last line end": POD.rstrip("\n"),
    "pod with the lines of Windows": POD.replace("\n", "\r\n"),
    "pod with the lines of Windows and without a last one": POD.replace("\n", "\r\n").rstrip(),
    "pod behind a mark of byte order": f"\ufeff{POD}",
    "pod between documents": f"---\n{SERVICE}---\n# 空\n---\n{POD}...\n---\n{SERVICE}",
    "spec last and others first": POD.replace("  containers:", "  restartPolicy: Never\n  containers:"),
    "spec with a comment on its line": POD.replace("spec:", "spec: # 规格"),
    "spec with a comment below": POD.replace("spec:\n", "spec:\n\n  # 规格\n\n"),
    "spec with a tag and an anchor": POD.replace("spec:", "spec: !!map &a"),
    "keys in quotes": POD.replace("spec:", '"spec":').replace("containers:", "'containers':"),
    "empty list of init containers": POD.replace("spec:\n", "spec:\n  initContainers: []\n"),
    "empty list with blanks": POD.replace("spec:\n", "spec:\n  initContainers: [  ] # 无\n"),
    "nothing behind the key": POD.replace("spec:\n", "spec:\n  initContainers: # 无\n"),
    "init containers at the end of the text": f"{POD}  initContainers:\n  - name: wait\n    image: busybox",
    "init containers between brackets": f"{POD}  initContainers: [{{name: wait, image: busybox}}, ] # 等待\n",
    "init container that ends in a block of text": f"{POD}  initContainers:\n  - name: a\n    args:\n"
    + "    - |+\n      # x\n\n\n",
    "init containers and comments": WITH_OTHERS,
    "init containers far to the right": INDENTED,
    "aliases": ALIASES,
    "cron job": CRON_JOB,
    "what kube-inject is shown with": NGINX,
    **{kind: template(kind) for kind in ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet")},
    "Job": template("Job", api="batch/v1"),
    "ReplicationController": template("ReplicationController", api="v1"),
    "Rollout": template("Rollout", api="argoproj.io/v1alpha1"),
    "Service of Knative": template("Service", api="serving.knative.dev/v1"),
    "PodTemplate": "kind: PodTemplate\ntemplate:\n  spec:\n    containers:\n    - name: a\n",
    "JSON": json.dumps(BOOK, ensure_ascii=False, indent=4),
    "JSON on one line": json.dumps(BOOK),
    "JSON without blanks": json.dumps({**BOOK, "spec": OTHER_FIRST}, separators=(",", ":")),
    "JSON with an empty list": json.dumps({**BOOK, "spec": {"initContainers": [], **BOOK["spec"]}}),  # type: ignore[dict-item] # a mapping
    "JSON with an empty list, without blanks": json.dumps(
        {**BOOK, "spec": {"initContainers": [], "containers": [{"name": "a"}]}}, separators=(",", ":")
    ),
    "list in JSON": json.dumps({"kind": "List", "items": [BOOK, {**BOOK, "spec": OTHER_FIRST}]}, indent=2),
    "list of its own kind": "kind: DeploymentList\nitems:\n"
    + "".join(
        f"- {line}" if not n else f"  {line}" for n, line in enumerate(template("Deployment").splitlines(keepends=True))
    ),
    "braces in YAML": "kind: Pod\nmetadata: {name: a}\nspec: {  containers: [{name: a, image: b}]}\n",
}
"""Each has a pod at least, and our container can be written into all of them."""


def pod_with(spec: str = "", *, annotations: str = "", containers: str = "  - {name: web, image: nginx}\n") -> str:
    """A pod with these lines in its spec, and these annotations."""
    above = f"  annotations:\n{annotations}" if annotations else ""
    return f"apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n{above}spec:\n{spec}  containers:\n{containers}"


TRAFFIC = "    traffic.sidecar.istio.io/"
PROXY_UID = "  - {name: web, image: nginx, securityContext: {runAsUser: 1337}}\n"
REFUSED: dict[str, tuple[str, str]] = {
    "host network": (pod_with("  hostNetwork: true\n"), "host's network"),
    "the proxy's uid": (pod_with(containers=PROXY_UID), "the container web runs as uid 1337"),
    "the proxy's uid, inherited": (pod_with("  securityContext: {runAsUser: 1337}\n"), "runs as uid 1337"),
    "istio's capture": (pod_with("  initContainers: [{name: istio-init, image: proxyv2}]\n"), "istio-init"),
    "a capture by its program": (
        pod_with("  initContainers: [{name: a, image: b, command: [/usr/bin/istio-iptables]}]\n"),
        "the init container a",
    ),
    "a capture by its image": (pod_with("  initContainers: [{name: a, image: x/traffic-capture:1}]\n"), "container a"),
    "injected already": (pod_with(annotations="    sidecar.istio.io/status: '{}'\n"), "an injector wrote one"),
    "a port in and out": (
        pod_with(annotations=f'{TRAFFIC}includeInboundPorts: "80,90"\n{TRAFFIC}excludeInboundPorts: "90"\n'),
        "90 is in traffic.sidecar.istio.io/excludeInboundPorts as well",
    ),
    "captured and not": (
        pod_with(annotations=f'    sidecar.istio.io/interceptionMode: NONE\n{TRAFFIC}excludeInboundPorts: "90"\n'),
        "nothing is captured",
    ),
    "a port that is none": (pod_with(annotations=f'{TRAFFIC}excludeInboundPorts: "http"\n'), "excludeInboundPorts"),
    "a name that is not known": (pod_with(annotations=f'{TRAFFIC}excludePorts: "1"\n'), "is not known"),
    "init containers that are null": (pod_with("  initContainers: null\n"), "is no list"),
    "init containers twice": (pod_with("  initContainers: []\n  initContainers: []\n"), "stands there twice"),
    "init containers by a merge": (pod_with("  <<: {initContainers: [{name: a}]}\n"), "merged in"),
    "init containers by an alias": (
        pod_with("  volumes: &v []\n  initContainers: *v\n"),
        "is no list that stands there",
    ),
}
"""What is refused, and by which words."""
