// The official JavaScript client: typed and generic calls, an informer, a command in a pod.
import assert from 'node:assert/strict';
import { Readable, Writable } from 'node:stream';
import * as k8s from '@kubernetes/client-node';

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const namespace = 'javascript';

async function until(what, ask) {
  for (let i = 0; i < 900; i++) {
    if (await ask()) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(what);
}

async function informer() {
  const events = [];
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'mine=yes' });
  const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list, 'mine=yes');
  for (const event of ['add', 'update', 'delete']) informer.on(event, () => events.push(event));
  informer.on('error', (error) => { if (error.type !== 'aborted') throw error; });
  await informer.start();
  const body = { metadata: { name: 'c', labels: { mine: 'yes' } }, data: { a: '1' } };
  await core.createNamespacedConfigMap({ namespace, body });
  await assert.rejects(core.createNamespacedConfigMap({ namespace, body }), (error) => error.code === 409 && JSON.parse(error.body).reason === 'AlreadyExists');
  await core.patchNamespacedConfigMap({ namespace, name: 'c', body: [{ op: 'replace', path: '/data/a', value: '2' }] });
  const merge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
  await core.patchNamespacedConfigMap({ namespace, name: 'c', body: { data: { b: '2' } } }, merge);
  await core.deleteNamespacedConfigMap({ namespace, name: 'c' });
  await until('all events', () => events.length === 4);
  assert.deepEqual(events, ['add', 'update', 'update', 'delete']);
  await informer.stop();
}

async function apply() {
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  const map = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 's', namespace }, data: { x: 'y' } };
  const applied = await objects.patch(map, undefined, undefined, 'javascript', true, k8s.PatchStrategy.ServerSideApply);
  assert.equal(applied.metadata.managedFields[0].operation, 'Apply');
}

async function pod() {
  const spec = { terminationGracePeriodSeconds: 0, containers: [{ name: 'c', image: 'keelson.dev/web:1' }] };
  await core.createNamespacedPod({ namespace, body: { metadata: { name: 'p' }, spec } });
  await until('a running pod', async () => (await core.readNamespacedPod({ namespace, name: 'p' })).status.phase === 'Running');
  let out = '';
  const sink = () => new Writable({ write(chunk, _, done) { out += chunk; done(); } });
  const command = ['sh', '-c', 'read line; echo got $line; exit 3'];
  const status = await new Promise((resolve, reject) => {
    const exec = new k8s.Exec(config);
    exec.exec(namespace, 'p', 'c', command, sink(), sink(), Readable.from(['typed\n']), false, resolve).catch(reject);
  });
  assert.equal(status.details.causes[0].message, '3');
  assert.equal(out, 'got typed\n');
}

await core.createNamespace({ body: { metadata: { name: namespace } } });
await until('the service account', async () => (await core.listNamespacedServiceAccount({ namespace })).items.length > 0);
await informer();
await apply();
await pod();
await core.deleteNamespace({ name: namespace });
process.exit(0);
