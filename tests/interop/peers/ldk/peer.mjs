// A complete LDK node (npm lightningdevkit) that the interop tests steer over HTTP.
//
//   node peer.mjs DATADIR LIGHTNING_PORT CONTROL_PORT CHAIN_URL     (CHAIN_LOGIN in the environment)
//
// The library is resolved from LDK_LIBRARY, the folder where `npm install` put it. State is on disk: one file a
// channel monitor, one for the manager, written before any message leaves, so that kill -9 is survived.
import { createRequire } from "node:module";
import * as fs from "node:fs";
import * as http from "node:http";
import * as net from "node:net";
import * as path from "node:path";
import { pathToFileURL } from "node:url";
import * as purse from "./wallet.mjs";

const [dataDir, lightningPort, controlPort, chainUrl] = process.argv.slice(2);
const library = createRequire(path.join(process.env.LDK_LIBRARY, "package.json")).resolve("lightningdevkit");
const ldk = await import(pathToFileURL(library));
await ldk.initializeWasmFromBinary(fs.readFileSync(path.join(path.dirname(library), "liblightningjs.wasm")));

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const unhex = (text) => new Uint8Array(Buffer.from(text, "hex"));
const reversed = (text) => new Uint8Array(Buffer.from(text, "hex").reverse());
const random = () => crypto.getRandomValues(new Uint8Array(32));
const now = () => Math.floor(Date.now() / 1000);
const say = (...words) => console.error(new Date().toISOString(), ...words);
const optional = (option) => ("some" in option ? option.some : null);

function write(name, bytes) {
  const target = path.join(dataDir, name);
  const descriptor = fs.openSync(target + ".part", "w", 0o600);
  fs.writeSync(descriptor, bytes);
  fs.fsyncSync(descriptor);
  fs.closeSync(descriptor);
  fs.renameSync(target + ".part", target);
}
const read = (name) => new Uint8Array(fs.readFileSync(path.join(dataDir, name)));
const exists = (name) => fs.existsSync(path.join(dataDir, name));
fs.mkdirSync(dataDir, { recursive: true });

// --- the chain: bitcoind's RPC

const authorization = "Basic " + Buffer.from(process.env.CHAIN_LOGIN).toString("base64");
async function chain(method, ...params) {
  const body = JSON.stringify({ id: 1, method, params });
  const answer = await (await fetch(chainUrl, { method: "POST", body, headers: { authorization } })).json();
  if (answer.error) throw new Error(`${method}: ${answer.error.message}`);
  return answer.result;
}

// --- what LDK asks of its host

let lastOnionError = "";
const logger = ldk.Logger.new_impl({
  log(record) {
    const level = record.get_level();
    if (level < ldk.Level.LDKLevel_Trace) return;
    const text = record.get_args();
    if (text.includes("Onion Error[")) lastOnionError = text;
    if (/Received message .*Pong/.test(text)) pongs++;
    if (level >= ldk.Level.LDKLevel_Debug) say(record.get_module_path(), text.slice(0, 400));
  },
});
let commitmentFeerate = 253;
const fees = ldk.FeeEstimator.new_impl({
  get_est_sat_per_1000_weight(target) {
    switch (target) {
      case ldk.ConfirmationTarget.LDKConfirmationTarget_MaximumFeeEstimate: return 100_000;
      case ldk.ConfirmationTarget.LDKConfirmationTarget_AnchorChannelFee: return commitmentFeerate;
      case ldk.ConfirmationTarget.LDKConfirmationTarget_NonAnchorChannelFee: return commitmentFeerate;
      case ldk.ConfirmationTarget.LDKConfirmationTarget_UrgentOnChainSweep: return 1000;
      case ldk.ConfirmationTarget.LDKConfirmationTarget_OutputSpendingFee: return 1000;
      default: return 253;
    }
  },
});
let broadcasts = Promise.resolve(); // one after the other: a child comes behind its parent
function broadcast(tx) {
  // These would be refused one by one, and what LDK says next would wait for seconds behind them.
  if (purse.isTooLate(Buffer.from(tx))) return Promise.resolve();
  broadcasts = broadcasts.then(() => chain("sendrawtransaction", hex(tx)))
    .then((txid) => { say("broadcast", txid); return txid; }, (error) => say("not broadcast", error.message));
  return broadcasts;
}
const broadcaster = ldk.BroadcasterInterface.new_impl({
  broadcast_transactions(transactions) { for (const tx of transactions) broadcast(tx); },
});
const monitorName = (outpoint) => `monitor-${hex(outpoint.get_txid())}-${outpoint.get_index()}`;
const completed = ldk.ChannelMonitorUpdateStatus.LDKChannelMonitorUpdateStatus_Completed;
const persister = ldk.Persist.new_impl({
  persist_new_channel(outpoint, monitor) { write(monitorName(outpoint), monitor.write()); return completed; },
  update_persisted_channel(outpoint, _update, monitor) { write(monitorName(outpoint), monitor.write()); return completed; },
  archive_persisted_channel(outpoint) { fs.renameSync(path.join(dataDir, monitorName(outpoint)), path.join(dataDir, "archived-" + monitorName(outpoint))); },
});

if (!exists("seed")) write("seed", random());
const keys = ldk.KeysManager.constructor_new(read("seed"), BigInt(now()), process.hrtime()[1]);
const [entropy, nodeSigner, signerProvider] = [keys.as_EntropySource(), keys.as_NodeSigner(), keys.as_SignerProvider()];
const noFilter = ldk.Option_FilterZ.constructor_none();
const chainMonitor = ldk.ChainMonitor.constructor_new(noFilter, broadcaster, logger, fees, persister);
const regtest = ldk.Network.LDKNetwork_Regtest;
const graph = ldk.NetworkGraph.constructor_new(regtest, logger);
const decay = ldk.ProbabilisticScoringDecayParameters.constructor_default();
const scorer = ldk.MultiThreadedLockableScore.constructor_new(
  ldk.ProbabilisticScorer.constructor_new(decay, graph, logger).as_Score());
const router = ldk.DefaultRouter.constructor_new(graph, logger, entropy, scorer.as_LockableScore(),
  ldk.ProbabilisticScoringFeeParameters.constructor_default()).as_Router();
const messageRouter = ldk.DefaultMessageRouter.constructor_new(graph, entropy).as_MessageRouter();

function settings(anchors, alias) {
  const config = ldk.UserConfig.constructor_default();
  const handshake = config.get_channel_handshake_config();
  handshake.set_minimum_depth(1);
  handshake.set_max_inbound_htlc_value_in_flight_percent_of_channel(100);
  handshake.set_our_max_accepted_htlcs(483);
  handshake.set_announce_for_forwarding(false);
  handshake.set_negotiate_anchors_zero_fee_htlc_tx(anchors);
  handshake.set_negotiate_scid_privacy(alias);
  config.set_channel_handshake_config(handshake);
  const channelConfig = config.get_channel_config();
  channelConfig.set_max_dust_htlc_exposure(ldk.MaxDustHTLCExposure.constructor_fixed_limit_msat(500_000_000n));
  config.set_channel_config(channelConfig);
  const limits = config.get_channel_handshake_limits();
  limits.set_force_announced_channel_preference(false);
  config.set_channel_handshake_limits(limits);
  config.set_manually_accept_inbound_channels(true); // LDK wants that for anchors
  return config;
}
const config = settings(true, false);

// --- new or from disk

let manager, oldestMonitor;
const watch = chainMonitor.as_Watch();
if (exists("manager")) {
  const names = fs.readdirSync(dataDir).filter((name) => /^monitor-[0-9a-f]+-\d+$/.test(name));
  const monitors = names.map((name) => {
    const result = ldk.UtilMethods.constructor_C2Tuple_ThirtyTwoBytesChannelMonitorZ_read(read(name), entropy, signerProvider);
    if (!result.is_ok()) throw new Error(`${name} cannot be read`);
    return result.res.get_b();
  });
  const result = ldk.UtilMethods.constructor_C2Tuple_ThirtyTwoBytesChannelManagerZ_read(read("manager"), entropy, nodeSigner,
    signerProvider, fees, watch, broadcaster, router, messageRouter, logger, config, monitors);
  if (!result.is_ok()) throw new Error("the manager cannot be read");
  manager = result.res.get_b();
  for (const monitor of monitors) {
    const height = monitor.current_best_block().get_height();
    oldestMonitor = Math.min(oldestMonitor ?? height, height);
    watch.watch_channel(monitor.get_funding_txo().get_a(), monitor);
  }
} else {
  const height = await chain("getblockcount");
  const tip = ldk.BestBlock.constructor_new(reversed(await chain("getblockhash", height)), height);
  manager = ldk.ChannelManager.constructor_new(fees, watch, broadcaster, router, messageRouter, logger, entropy, nodeSigner,
    signerProvider, config, ldk.ChainParameters.constructor_new(regtest, tip), now());
  write("manager", manager.write());
}
const nodeId = hex(manager.get_our_node_id());

const ignoring = ldk.IgnoringMessageHandler.constructor_new();
const gossip = ldk.P2PGossipSync.constructor_new(graph, ldk.Option_UtxoLookupZ.constructor_none(), logger);
const peers = ldk.PeerManager.constructor_new(manager.as_ChannelMessageHandler(), gossip.as_RoutingMessageHandler(),
  ignoring.as_OnionMessageHandler(), ignoring.as_CustomMessageHandler(), now(), random(), logger, nodeSigner);

// --- sockets

let sockets = 0n;
function wrap(socket) {
  const id = sockets++;
  let full = false, gone = false;
  socket.setNoDelay(true);
  const descriptor = ldk.SocketDescriptor.new_impl({
    send_data(data, resumeRead) {
      if (resumeRead) socket.resume();
      if (full || gone) return 0;
      full = !socket.write(Buffer.from(data));
      return data.length;
    },
    disconnect_socket() { gone = true; socket.end(); },
    eq: (other) => other.hash() === id,
    hash: () => id,
  });
  socket.on("drain", () => { full = false; if (!peers.write_buffer_space_avail(descriptor).is_ok()) drop(); });
  socket.on("data", (data) => {
    if (gone) return;
    const result = peers.read_event(descriptor, new Uint8Array(data));
    if (!result.is_ok()) drop();
    else if (result.res) socket.pause();
    pump();
  });
  socket.on("error", (error) => say("socket", error.message));
  socket.on("close", () => { if (!gone) { gone = true; peers.socket_disconnected(descriptor); } });
  function drop() { gone = true; socket.destroy(); }
  return descriptor;
}
const noAddress = ldk.Option_SocketAddressZ.constructor_none();
const server = net.createServer((socket) => {
  if (!peers.new_inbound_connection(wrap(socket), noAddress).is_ok()) socket.destroy();
});
function connect(id, host, port) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, host, () => {
      const result = peers.new_outbound_connection(unhex(id), wrap(socket), noAddress);
      if (!result.is_ok()) { socket.destroy(); return reject(new Error("the connection was refused")); }
      socket.write(Buffer.from(result.res));
      resolve(true);
    });
    socket.on("error", reject);
  });
}

// --- events

const payments = {}; // by hash: {preimage} or {failure}
const tried = {}; // by hash: what the last failed path said
const received = {}; // by hash: msat
const closed = {}; // by channel id: why
const held = new Map(); // by hash: null, or the preimage of a payment that waits to be claimed
// LDK tells of a claimable payment once, so what is held must outlive a restart here.
if (exists("held"))
  for (const [hash, preimage] of JSON.parse(Buffer.from(read("held")).toString())) held.set(hash, preimage && unhex(preimage));
const keepHeld = () =>
  write("held", Buffer.from(JSON.stringify([...held].map(([hash, preimage]) => [hash, preimage && hex(preimage)]))));
const sweeps = new Set(); // txids that are not in a block
let sweeping = 0;
const bumper = ldk.BumpTransactionEventHandler.constructor_new(broadcaster,
  ldk.Wallet.constructor_new(purse.source(ldk), logger).as_CoinSelectionSource(), signerProvider, logger);

function sweep(outputs) {
  const noLock = ldk.Option_u32Z.constructor_none();
  const result = keys.as_OutputSpender().spend_spendable_outputs(outputs, [], purse.SCRIPT, 500, noLock);
  if (!result.is_ok()) return say("nothing swept");
  sweeping++;
  broadcast(result.res).then((txid) => { sweeping--; if (txid) sweeps.add(txid); });
}
let pongs = 0;

function handle(event) {
  const name = event.constructor.name.replace("Event_", "");
  if (event instanceof ldk.Event_FundingGenerationReady) {
    const { temporary_channel_id, counterparty_node_id } = event;
    chain("makefunding", hex(event.output_script), Number(event.channel_value_satoshis)).then((tx) => {
      const result = manager.funding_transaction_generated(temporary_channel_id, counterparty_node_id, unhex(tx));
      if (!result.is_ok()) say("funding refused", result.err.constructor.name);
      pump();
    }, (error) => say("no funding", error.message));
  } else if (event instanceof ldk.Event_OpenChannelRequest) {
    const trusted = event.channel_type.requires_zero_conf();
    const result = trusted
      ? manager.accept_inbound_channel_from_trusted_peer_0conf(event.temporary_channel_id, event.counterparty_node_id, 1n)
      : manager.accept_inbound_channel(event.temporary_channel_id, event.counterparty_node_id, 1n);
    if (!result.is_ok()) say("channel not accepted", result.err.constructor.name);
  } else if (event instanceof ldk.Event_PendingHTLCsForwardable) {
    setTimeout(() => { manager.process_pending_htlc_forwards(); pump(); }, 10);
  } else if (event instanceof ldk.Event_PaymentClaimable) {
    const preimage = optional(event.purpose.preimage());
    // An invoice for somebody else's hash: this node does not know the preimage, and says so.
    if (preimage === null) manager.fail_htlc_backwards(event.payment_hash);
    else if (held.has(hex(event.payment_hash))) { held.set(hex(event.payment_hash), preimage); keepHeld(); }
    else manager.claim_funds(preimage);
  } else if (event instanceof ldk.Event_PaymentClaimed) {
    received[hex(event.payment_hash)] = Number(event.amount_msat);
  } else if (event instanceof ldk.Event_SpendableOutputs) {
    sweep(event.outputs);
  } else if (event instanceof ldk.Event_BumpTransaction) {
    bumper.handle_event(event.bump_transaction);
  } else if (event instanceof ldk.Event_PaymentSent) {
    payments[hex(event.payment_hash)] = { preimage: hex(event.payment_preimage) };
  } else if (event instanceof ldk.Event_PaymentPathFailed) {
    tried[hex(event.payment_hash)] = { permanent: event.payment_failed_permanently, said: lastOnionError };
  } else if (event instanceof ldk.Event_PaymentFailed) {
    const hash = optional(event.payment_hash);
    const reason = optional(event.reason);
    if (hash) payments[hex(hash)] = { failure: tried[hex(hash)]?.said || "", reason: reason === null ? "" : ldk.PaymentFailureReason[reason] };
  } else if (event instanceof ldk.Event_ChannelClosed) {
    const reason = event.reason;
    closed[hex(event.channel_id.get_a())] = reason.constructor.name.replace("ClosureReason_", "") + " " + (reason.err ?? reason.peer_msg?.get_a?.() ?? "");
  }
  say("event", name);
  return ldk.Result_NoneReplayEventZ.constructor_ok();
}
const handler = ldk.EventHandler.new_impl({ handle_event: handle });

let pumping = false;
function pumpNow() {
  manager.as_EventsProvider().process_pending_events(handler);
  chainMonitor.as_EventsProvider().process_pending_events(handler);
  // The manager goes to disk before what it decided goes to the peer.
  if (manager.get_and_clear_needs_persistence()) write("manager", manager.write());
  peers.process_events();
}
function pump() {
  if (pumping) return;
  pumping = true;
  setImmediate(() => { pumping = false; pumpNow(); });
}

// --- blocks

if (exists("wallet")) Object.assign(purse.wallet, JSON.parse(Buffer.from(read("wallet")).toString()));
async function followCoins(to) {
  if (purse.wallet.height >= to) return;
  while (purse.wallet.height < to) {
    const found = await chain("getblock", await chain("getblockhash", purse.wallet.height + 1), 2);
    purse.connect(found.tx, purse.wallet.height + 1);
    for (const tx of found.tx) sweeps.delete(tx.txid);
  }
  write("wallet", Buffer.from(JSON.stringify(purse.wallet)));
}

let tip;
const hashes = {}, headers = {}; // by height; headers are needed to take blocks off again
async function feed(listener, from, to) {
  for (let height = from + 1; height <= to; height++) {
    const hash = await chain("getblockhash", height);
    const block = unhex(await chain("getblock", hash, 0));
    listener.block_connected(block, height);
    hashes[height] = hash;
    headers[height] = block.slice(0, 80);
  }
}
async function follow() {
  const height = await chain("getblockcount");
  while (tip > height || (await chain("getblockhash", tip)) !== hashes[tip]) {
    if (!headers[tip]) throw new Error("a block of before the start was reorganised: start anew");
    manager.as_Listen().block_disconnected(headers[tip], tip);
    chainMonitor.as_Listen().block_disconnected(headers[tip], tip);
    tip--;
    hashes[tip] ??= await chain("getblockhash", tip);
  }
  await followCoins(height); // first: what LDK then wants to pay with must be there still
  for (; tip < height; tip++) {
    const hash = await chain("getblockhash", tip + 1);
    const block = unhex(await chain("getblock", hash, 0));
    chainMonitor.as_Listen().block_connected(block, tip + 1);
    manager.as_Listen().block_connected(block, tip + 1);
    hashes[tip + 1] = hash;
    headers[tip + 1] = block.slice(0, 80);
  }
  pump();
}

const height = await chain("getblockcount");
tip = manager.current_best_block().get_height();
hashes[tip] = hex(manager.current_best_block().get_block_hash().slice().reverse());
await followCoins(height);
// What was missed while this node was down. Monitors are saved at their own times, so each may lag behind.
if (oldestMonitor !== undefined) await feed(chainMonitor.as_Listen(), oldestMonitor, height);
await feed(manager.as_Listen(), tip, height);
tip = height;
hashes[tip] = await chain("getblockhash", tip);

// --- the steering

const channelView = (channel) => ({
  id: hex(channel.get_channel_id().get_a()),
  peer: hex(channel.get_counterparty().get_node_id()),
  funding: channel.get_funding_txo() && hex(channel.get_funding_txo().get_txid().slice().reverse()) + ":" + channel.get_funding_txo().get_index(),
  sat: Number(channel.get_channel_value_satoshis()),
  type: channel.get_channel_type() ? hex(channel.get_channel_type().write()) : "",
  usable: channel.get_is_usable(),
  outbound_msat: Number(channel.get_outbound_capacity_msat()),
  inbound_msat: Number(channel.get_inbound_capacity_msat()),
  reserve_sat: Number(optional(channel.get_unspendable_punishment_reserve()) ?? 0),
  pending: channel.get_pending_inbound_htlcs().length + channel.get_pending_outbound_htlcs().length,
  feerate: optional(channel.get_feerate_sat_per_1000_weight()),
});

function send(hash, secret, metadata, parameters, msat) {
  const onion = ldk.RecipientOnionFields.constructor_secret_only(secret);
  if (metadata) onion.set_payment_metadata(ldk.Option_CVec_u8ZZ.constructor_some(metadata));
  const route = ldk.RouteParameters.constructor_from_payment_params_and_value(parameters, BigInt(msat));
  delete payments[hex(hash)];
  const result = manager.send_payment(hash, onion, hash, route, ldk.Retry.constructor_attempts(0));
  pump();
  if (!result.is_ok()) throw new Error("not sent: " + ldk.RetryableSendFailure[result.err]);
  return hex(hash);
}

const methods = {
  info: () => ({ id: nodeId, height: tip, peers: peers.list_peers().map((peer) => hex(peer.get_counterparty_node_id())) }),
  secret: () => hex(keys.get_node_secret_key()),
  channels: () => manager.list_channels().map(channelView),
  closed: () => closed,
  connect: (id, host, port) => connect(id, host, port),
  disconnect: (id) => { peers.disconnect_by_node_id(unhex(id)); pump(); return true; },
  open(id, sat, pushMsat, anchors, alias) {
    const result = manager.create_channel(unhex(id), BigInt(sat), BigInt(pushMsat), 1n, null, settings(anchors, alias));
    pump();
    if (!result.is_ok()) throw new Error("open: " + result.err.constructor.name + " " + (result.err.err ?? ""));
    return hex(result.res.get_a());
  },
  forceClose(id, peer) {
    const channel = ldk.ChannelId.constructor_new(unhex(id));
    const result = manager.force_close_broadcasting_latest_txn(channel, unhex(peer), "closed by hand");
    pump();
    if (!result.is_ok()) throw new Error("force close: " + result.err.constructor.name + " " + (result.err.err ?? ""));
    return true;
  },
  closes: () => chainMonitor.get_claimable_balances(manager.list_channels()).length + sweeps.size + sweeping,
  balance: () => purse.balance(),
  async fund(sat) {
    await chain("sendrawtransaction", await chain("makefunding", hex(purse.SCRIPT), sat));
    return true;
  },
  close(id, peer) {
    const result = manager.close_channel(ldk.ChannelId.constructor_new(unhex(id)), unhex(peer));
    pump();
    if (!result.is_ok()) throw new Error("close: " + result.err.constructor.name + " " + (result.err.err ?? ""));
    return true;
  },
  invoice(msat, description, expiry, delta) {
    const words = ldk.Bolt11InvoiceDescription.constructor_direct(ldk.Description.constructor_new(description).res);
    const amount = ldk.Option_u64Z.constructor_some(BigInt(msat));
    const result = manager.create_bolt11_invoice(amount, words, ldk.Option_u32Z.constructor_some(expiry),
      delta ? ldk.Option_u16Z.constructor_some(delta) : ldk.Option_u16Z.constructor_none(), ldk.Option_ThirtyTwoBytesZ.constructor_none());
    if (!result.is_ok()) throw new Error("no invoice");
    return result.res.to_str();
  },
  received: (hash) => received[hash] ?? null,
  pay(text) {
    const invoice = ldk.Bolt11Invoice.constructor_from_str(text);
    if (!invoice.is_ok()) throw new Error("this is no invoice");
    const parts = ldk.UtilMethods.constructor_payment_parameters_from_invoice(invoice.res);
    if (!parts.is_ok()) throw new Error("the invoice has no amount");
    const [hash, onion, route] = [parts.res.get_a(), parts.res.get_b(), parts.res.get_c()];
    delete payments[hex(hash)];
    const result = manager.send_payment(hash, onion, hash, route, ldk.Retry.constructor_attempts(0));
    pump();
    if (!result.is_ok()) throw new Error("not sent: " + ldk.RetryableSendFailure[result.err]);
    return hex(hash);
  },
  payAll: (texts) => texts.map((text) => methods.pay(text)),
  send: (payee, hash, secret, msat, delta) =>
    send(unhex(hash), unhex(secret), null, ldk.PaymentParameters.constructor_from_node_id(unhex(payee), delta), msat),
  hold: (hash) => { held.set(hash, null); keepHeld(); return true; },
  giveBack(hash) {
    held.delete(hash);
    keepHeld();
    manager.fail_htlc_backwards(unhex(hash));
    pump();
    return true;
  },
  holds: (hash) => Boolean(held.get(hash)),
  release(hash) {
    const preimage = held.get(hash);
    if (!preimage) throw new Error("no payment waits under this hash");
    held.delete(hash);
    keepHeld();
    manager.claim_funds(preimage);
    pump();
    return true;
  },
  ping: () => { peers.timer_tick_occurred(); pump(); return true; },
  pongs: () => pongs,
  payment: (hash) => payments[hash] ?? null,
  feerate: (rate) => { commitmentFeerate = rate; return rate; },
  tick: () => { manager.timer_tick_occurred(); pump(); return true; },
};
const control = http.createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => { body += piece; });
  request.on("end", async () => {
    let answer;
    try {
      const { method, params } = JSON.parse(body);
      answer = { result: await methods[method](...params) };
    } catch (error) {
      answer = { error: String(error?.message ?? error) };
    }
    response.end(JSON.stringify(answer));
  });
});

server.listen(Number(lightningPort), "127.0.0.1");
control.listen(Number(controlPort), "127.0.0.1", () => say("serving", nodeId));
setInterval(pump, 50);
setInterval(() => { peers.timer_tick_occurred(); pump(); }, 10_000);
setInterval(() => { manager.timer_tick_occurred(); pump(); }, 60_000);
let following = false;
setInterval(async () => {
  if (following) return;
  following = true;
  try { await follow(); } catch (error) { say("chain", error.message); }
  following = false;
}, 100);
for (const name of ["SIGTERM", "SIGINT"])
  process.on(name, () => { pumpNow(); write("manager", manager.write()); process.exit(0); });
