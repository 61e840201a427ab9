// Uses coinbase-pro as its documentation shows; only the addresses are not Coinbase's.
//
//   drive_coinbase_pro.js stream URL CHANNELS PRODUCTS COUNT SECONDS
//   drive_coinbase_pro.js rest API-URL PRODUCT TRADES
//   drive_coinbase_pro.js book URL API-URL PRODUCT SECONDS
//
// One JSON object per line on stdout.
'use strict';

const { OrderbookSync, PublicClient, WebsocketClient } = require('coinbase-pro');

const say = (kind, fields) => process.stdout.write(JSON.stringify({ kind, ...fields }) + '\n');

// Reads until COUNT messages have arrived or SECONDS have passed.
function stream(url, channels, products, count, seconds) {
  const client = new WebsocketClient(products.split(','), url, null, {
    channels: channels.split(','),
  });
  const timer = setTimeout(() => client.disconnect(), seconds * 1000);
  let seen = 0;
  client.on('message', (message) => {
    say('message', { message });
    seen += 1;
    if (seen === Number(count)) {
      clearTimeout(timer);
      client.disconnect();
    }
  });
  client.on('error', (error) => say('error', { message: error.message, reason: error.reason }));
  client.on('close', () => say('closed'));
}

// Calls every public method.
async function rest(url, product, trades) {
  const client = new PublicClient(url);
  const tell = (call, answer) => say('answer', { call, answer });
  tell('products', await client.getProducts());
  for (const level of [1, 2, 3]) {
    tell(`book ${level}`, await client.getProductOrderBook(product, { level }));
  }
  tell('ticker', await client.getProductTicker(product));
  const newest = (await client.getProductTrades(product, { limit: 1 }))[0].trade_id;
  const page = await client.getProductTrades(product, { after: newest, limit: 10 });
  tell('page of trades', { after: newest, page });
  const walk = client.getProductTradeStream(product, newest - trades, newest);
  const walked = [];
  for await (const trade of walk) walked.push(trade);
  tell('trades', walked);
  tell('candles', await client.getProductHistoricRates(product, { granularity: 60 }));
  tell('currencies', await client.getCurrencies());
  tell('time', await client.getTime());
  await client.getProductTicker('XYZ-ABC').catch((error) => tell('wrong product', error.message));
}

// Keeps a book for SECONDS, after it is loaded.
function book(url, apiUrl, product, seconds) {
  const client = new OrderbookSync([product], apiUrl, url);
  let isFirst = true;
  const end = () => {
    const rows = (orders) => orders.map((order) => [order.price, order.size, order.id]);
    const { bids, asks } = client.books[product].state();
    say('book', { sequence: client._sequences[product], bids: rows(bids), asks: rows(asks) });
    client.disconnect();
  };
  client.on('sync', () => say('loading'));
  client.on('synced', () => {
    say('loaded', { sequence: client._sequences[product] });
    if (isFirst) setTimeout(end, seconds * 1000);
    isFirst = false;
  });
  client.on('error', (error) => {
    say('error', { message: error.message, reason: error.reason });
    process.exitCode = 1;
    client.disconnect();
  });
  client.on('close', () => say('closed'));
}

const [what, ...rest_] = process.argv.slice(2);
({ stream, rest, book })[what](...rest_);
