// The coins of the LDK node: outputs that anybody may spend (a witness script of OP_TRUE), which a play chain allows.
// So fees of anchor closes can be paid without any key outside of LDK.
import { createHash } from "node:crypto";

const WITNESS_SCRIPT = Buffer.from("51", "hex");
export const SCRIPT = new Uint8Array(
  Buffer.concat([Buffer.from("0020", "hex"), createHash("sha256").update(WITNESS_SCRIPT).digest()]));
const SCRIPT_HEX = Buffer.from(SCRIPT).toString("hex");
const WITNESS = Buffer.from("010151", "hex"); // one item: the script itself
const NO_WITNESS = Buffer.from("00", "hex");
const SATISFACTION_WEIGHT = 4n + 3n; // the length of an empty script, and the witness

// How far the chain was read, and what was found there: confirmed coins by outpoint, in satoshis, and what is spent.
export const wallet = { height: 0, coins: {}, spent: {} };

export function connect(transactions, height) {
  for (const tx of transactions) {
    for (const input of tx.vin) {
      if (!input.txid) continue; // of a coinbase
      delete wallet.coins[`${input.txid}:${input.vout}`];
      wallet.spent[`${input.txid}:${input.vout}`] = true;
    }
    for (const output of tx.vout)
      if (output.scriptPubKey.hex === SCRIPT_HEX) wallet.coins[`${tx.txid}:${output.n}`] = Math.round(output.value * 1e8);
  }
  wallet.height = height;
}

export const balance = () => Object.values(wallet.coins).reduce((sum, sat) => sum + sat, 0);

// LDK 0.1 claims some HTLCs again at each block though a block holds their spend.
export const isTooLate = (tx) => inputsOf(tx).some((outpoint) => outpoint in wallet.spent);

export function source(ldk) {
  const utxo = ([outpoint, sat]) => {
    const [txid, index] = outpoint.split(":");
    const where = ldk.OutPoint.constructor_new(new Uint8Array(Buffer.from(txid, "hex").reverse()), Number(index));
    return ldk.Utxo.constructor_new(where, ldk.TxOut.constructor_new(BigInt(sat), SCRIPT), SATISFACTION_WEIGHT);
  };
  return ldk.WalletSource.new_impl({
    list_confirmed_utxos: () => ldk.Result_CVec_UtxoZNoneZ.constructor_ok(Object.entries(wallet.coins).map(utxo)),
    get_change_script: () => ldk.Result_CVec_u8ZNoneZ.constructor_ok(SCRIPT),
    sign_psbt: (psbt) => ldk.Result_TransactionNoneZ.constructor_ok(new Uint8Array(signed(unsignedOf(Buffer.from(psbt))))),
  });
}

function sizeAt(bytes, at) { // a CompactSize and where it ends
  if (bytes[at] < 0xfd) return [bytes[at], at + 1];
  if (bytes[at] === 0xfd) return [bytes.readUInt16LE(at + 1), at + 3];
  return [bytes.readUInt32LE(at + 1), at + 5];
}

// BIP 174: behind the five magic bytes, the unsigned transaction is the value of the key 00.
function unsignedOf(psbt) {
  const [size, start] = sizeAt(psbt, 7);
  return psbt.subarray(start, start + size);
}

function inputsOf(tx) {
  const outpoints = [];
  let [count, at] = sizeAt(tx, tx[4] === 0 ? 6 : 4); // marker and flag come before witnesses
  for (; count > 0; count--) {
    const txid = Buffer.from(tx.subarray(at, at + 32)).reverse().toString("hex");
    outpoints.push(`${txid}:${tx.readUInt32LE(at + 32)}`);
    const [script, behind] = sizeAt(tx, at + 36);
    at = behind + script + 4;
  }
  return outpoints;
}

function signed(tx) {
  const witnesses = inputsOf(tx).map((outpoint) => (outpoint in wallet.coins ? WITNESS : NO_WITNESS));
  const end = tx.length - 4;
  return Buffer.concat([tx.subarray(0, 4), Buffer.from("0001", "hex"), tx.subarray(4, end), ...witnesses, tx.subarray(end)]);
}
