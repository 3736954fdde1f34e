"""One question per language, with capitals, accents, clusters and punctuation."""

QUERIES = {
    "en": "When did the Naïve (city) of London burn?",
    "de": "Für wen war die Größe wichtig?",
    "el": "Ποιος ήταν ο πρώτος άνθρωπος;",
    "es": "¿Qué año llegó la niña?",
    "ru": "Кто её построил?",
    "tr": "İstanbul ışık ne kadar?",
    "vi": "Việt Nam được thành lập khi nào?",
    "zh": "中国的首都是哪里？",
    "ar": "ما هي عاصمة الأردن كبيرة؟",
    "hi": "क्षत्रिय की किताब कहाँ है?",
    "th": "น้ำท่วมที่กรุงเทพเมื่อใด",
}
